"""The engine side of one request: choose a replica, retry once before the first byte, pass on the reply."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import orjson
from django.utils.translation import gettext_lazy as _

from core import errors
from gateway.api import replies
from gateway.api.operation import Operation, PreparedRequest
from gateway.api.stream_relay import Relay, TokenUsage
from gateway.context import GatewayContext
from gateway.metering.meter import RequestRecord
from gateway.routing import replica_choice
from gateway.routing.replica_choice import Run
from gateway.routing.snapshot import InstanceEntry, ModelEntry
from gateway.upstream import EngineConnection, UpstreamFailed, UpstreamStale, UpstreamTimeout, UpstreamUnreachable

NEXT_RUN_TIMEOUT = 1.0  # wait for news of a dead engine's next run
DRAIN_TIMEOUT = 1.0  # from `[DONE]` to the end of the engine's reply
MAX_ERROR_BYTES = 64 * 1024
RETRY_AFTER = 5
UNAVAILABLE_STATUSES = (502, 503)  # an engine says itself that it cannot serve now
MAX_SENDS = 2  # how often a request is sent if it gets no answer

Reply = TypeVar("Reply")
ReceiveReply = Callable[[EngineConnection, float], Awaitable[Reply]]

DIED_MESSAGE = _("The engine died while answering. Try again; its crashes tell why.")
NO_ANSWER_MESSAGE = _("The engine does not answer. Try again; its crashes and log tell why.")
BROKEN_OFF_MESSAGE = _("The engine broke off while answering. Try again; its crashes tell why.")


@dataclass(slots=True)
class EngineStream:
    """An engine's event stream, of which the first events have arrived."""

    connection: EngineConnection
    relay: Relay
    first_events: bytes

    async def drain(self) -> None:
        """Read the reply to its end after `[DONE]`, so that the connection can be kept."""
        try:
            while await self.connection.chunk(DRAIN_TIMEOUT) is not None:
                pass
        except UpstreamFailed:
            self.connection.abort()


class Dispatch:
    """Forwards `prepared` and sets the instance in `record`; `close` must be called in every case."""

    def __init__(
        self,
        context: GatewayContext,
        operation: Operation,
        model: ModelEntry,
        prepared: PreparedRequest,
        record: RequestRecord,
    ) -> None:
        self._context, self._config = context, context.config
        self._model, self._prepared = model, prepared
        self._loop = asyncio.get_running_loop()
        self._started_at = self._loop.time()
        self._deadline = self._started_at + self._config.total_timeout
        self._instance: InstanceEntry | None = None
        self._connection: EngineConnection | None = None
        self._relay: Relay | None = None
        self._usage = TokenUsage()
        self.operation, self.record = operation, record
        self.forwarded_at: float | None = None  # in the loop's time

    @property
    def streams(self) -> bool:
        return self._prepared.stream

    def usage(self) -> TokenUsage:
        """The engine's latest token counts among the bytes received, delivered to the client or not."""
        if self._relay is None:
            return self._usage
        if self._connection:
            self._relay.feed(self._connection.received())
        return self._relay.usage()

    @property
    def queue_ms(self) -> int:
        """Milliseconds until the request was first forwarded, or until now."""
        end = self._loop.time() if self.forwarded_at is None else self.forwarded_at
        return int((end - self._started_at) * 1000)

    async def read_reply(self, *, generated_id: bool) -> bytes:
        """The reply of a request that is not streamed."""
        raw = await self._send_with_retry(EngineConnection.read)
        body, self._usage = replies.convert_reply(self.operation, raw, self._prepared, generated_id=generated_id)
        return self._with_adapter_name(body)

    async def open_stream(self) -> EngineStream:
        """The reply of a streamed request, once its first events have arrived."""
        return await self._send_with_retry(self._begin_stream)

    async def next_events(self, stream: EngineStream) -> bytes:
        """The next events of the stream. Raises EngineUnavailable or OperationTimeout if it breaks off."""
        relay = stream.relay
        while True:
            if relay.failure:
                raise self._relay_error(relay)
            try:
                chunk = await stream.connection.chunk(self._cap_timeout(self._config.idle_timeout))
            except UpstreamTimeout:
                raise _too_slow() from None
            except UpstreamFailed:
                raise _broken_off() from None
            if chunk is None:
                raise _broken_off()
            if out := relay.feed(chunk):
                return self._with_adapter_name(out)

    def close(self) -> None:
        if self._connection:
            self._connection.finish()
            self._connection = None
        if self._instance:
            self._context.traffic.end(self._instance.id, self._model.adapter)
            self._instance = None

    def abort(self) -> None:
        """End the request from outside, without another try."""
        self._deadline = 0.0
        if self._connection:
            self._connection.abort()

    async def _send_with_retry(self, receive: ReceiveReply[Reply]) -> Reply:
        """What `receive` makes of the engine's reply; a request that failed without an answer is sent once more."""
        tried: set[Run] = set()
        sent = 0
        while sent < MAX_SENDS:
            instance = await self._take_replica(tried, sent)
            self.forwarded_at = self.forwarded_at or self._loop.time()
            try:
                return await self._send_once(instance, tried, receive, fresh=sent > 0)
            except UpstreamTimeout:
                raise _too_slow() from None
            except UpstreamStale:
                sent += 1
            except UpstreamUnreachable:
                self._record_failure(instance, tried)
            except UpstreamFailed:
                sent += 1
                self._record_failure(instance, tried)
            self.close()
        raise errors.EngineUnavailable(DIED_MESSAGE, retry_after=RETRY_AFTER)

    def _record_failure(self, instance: InstanceEntry, tried: set[Run]) -> None:
        run = (instance.id, instance.generation)
        tried.add(run)
        self._context.traffic.mark_suspect(run)

    async def _take_replica(self, tried: set[Run], sent: int) -> InstanceEntry:
        """A request that was sent does not wait for a dead engine's next run: it may have killed the engine."""
        instance = self._choose(tried)
        if instance is None and tried:
            await self._context.source.wait_for_next(NEXT_RUN_TIMEOUT)
            instance = self._choose(tried)
            if instance is None and (sent or not self._is_starting()):
                raise errors.EngineUnavailable(NO_ANSWER_MESSAGE, retry_after=RETRY_AFTER)
        deadline = self._loop.time() + self._model.wait_timeout
        while instance is None:
            await self._context.starts.wait_until_ready(self._model, deadline)
            instance = self._choose(tried)
        self._instance = instance
        self._context.traffic.begin(instance.id, self._model.adapter)
        self.record.instance_id, self.record.generation = instance.id, instance.generation
        return instance

    def _is_starting(self) -> bool:
        """Whether an agent is already starting the model's next run."""
        return any(entry.starting for entry in self._context.source.current().of_model(self._model.id))

    def _choose(self, tried: set[Run]) -> InstanceEntry | None:
        snapshot = self._context.source.current()
        traffic = self._context.traffic
        return replica_choice.choose_replica(
            self._model,
            snapshot,
            traffic.inflight,
            tried,
            recently_failed=traffic.recently_failed(),
            prefix=self._prefix,
        )

    def _prefix(self) -> bytes | None:
        return replica_choice.prefix_digest(self._prepared.payload, self._model.target)

    async def _send_once(
        self, instance: InstanceEntry, tried: set[Run], receive: ReceiveReply[Reply], *, fresh: bool
    ) -> Reply:
        config = self._config
        timeout = self._cap_timeout(config.first_byte_timeout if self.streams else config.reply_timeout)
        body = self._prepared.body(self._model.adapter or instance.served_name)
        connection = self._connection = await self._context.client.post(
            instance.endpoint, self.operation.engine_path, self.record.request_id, body, timeout, fresh=fresh
        )
        if connection.status in UNAVAILABLE_STATUSES and self._choose({*tried, (instance.id, instance.generation)}):
            raise UpstreamFailed(f"status {connection.status}")
        if connection.status != 200:
            raw = await connection.read(timeout, max_bytes=MAX_ERROR_BYTES)
            raise self._refusal(connection.status, raw)
        return await receive(connection, timeout)

    async def _begin_stream(self, connection: EngineConnection, timeout: float) -> EngineStream:
        relay = self._relay = self.operation.relay(self._prepared)
        while True:
            chunk = await connection.chunk(timeout)
            if chunk is None:
                raise UpstreamFailed("a stream without an event")
            if out := relay.feed(chunk):
                return EngineStream(connection, relay, self._with_adapter_name(out))
            if relay.failure:
                raise self._relay_error(relay)

    def _with_adapter_name(self, body: bytes) -> bytes:
        """Replace an adapter's version id, the engine's name for it, by its name. `body` holds whole events."""
        if not self._model.adapter:
            return body
        return body.replace(b'"%s"' % self._model.adapter.encode(), orjson.dumps(self._model.name))

    def _relay_error(self, relay: Relay) -> errors.PlatformError:
        """Our error for an engine's error event."""
        if not relay.error:
            return replies.unreadable_reply()
        try:
            code = orjson.loads(relay.error)["error"]["code"]
        except (orjson.JSONDecodeError, KeyError, TypeError):
            code = 500
        status = code if type(code) is int else 500
        return self._refusal(status, relay.error)

    def _refusal(self, status: int, raw: bytes) -> errors.PlatformError:
        return replies.engine_refusal(self.operation, self._prepared.payload, status, raw, self._model)

    def _cap_timeout(self, seconds: float) -> float:
        """`seconds`, or what is left of the request's total time if that is less."""
        left = self._deadline - self._loop.time()
        if left <= 0:
            raise _too_slow()
        return min(seconds, left)


def _too_slow() -> errors.OperationTimeout:
    return errors.OperationTimeout(_("The engine took too long."))


def _broken_off() -> errors.EngineUnavailable:
    return errors.EngineUnavailable(BROKEN_OFF_MESSAGE, retry_after=RETRY_AFTER)
