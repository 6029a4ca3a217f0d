"""One request in the data plane, from its first byte to its usage record, which is finished in every case."""

import asyncio
import time
from functools import partial

from django.utils.translation import gettext_lazy as _

from accounts.policy import Permission
from core import errors, logs
from core.asgi_server import Receive
from core.client_names import IGNORED_HEADER, ignored_value, printable_name
from gateway.api import dialects, generation
from gateway.api.operation import Operation
from gateway.api.validators import field_error
from gateway.context import GatewayContext
from gateway.dispatch import Dispatch
from gateway.errors import status_for
from gateway.json_types import JsonObject
from gateway.metering.meter import RequestRecord
from gateway.responder import Responder
from gateway.routing import model_lookup
from gateway.routing.authentication import require_permission
from gateway.routing.snapshot import Caller, ModelEntry
from inference import usage

CLIENT_CLOSED_REQUEST = 499  # only for the usage record: the client is gone


class ClientGone(Exception):
    """The client left while its request was still being read."""


class Exchange:
    """One request. `ref` is the model named in the path, None where the body names it."""

    def __init__(
        self, context: GatewayContext, out: Responder, receive: Receive, operation: Operation, ref: str | None
    ) -> None:
        task = asyncio.current_task()
        assert task is not None, "a request runs in a task: leaving clients cancel it"
        self._context, self._out, self._receive = context, out, receive
        self._operation, self._ref = operation, ref
        self._started_at = time.monotonic()
        self._task = task
        self._client_watch: asyncio.Task[None] | None = None
        self._dispatch: Dispatch | None = None  # from its admission on
        self._client_left = self._finished = False
        self._end_error: errors.PlatformError | None = None
        self.caller: Caller | None = None

    async def run(self) -> None:
        logs.bind(request_id=self._out.shown_request_id)
        try:
            await self._answer()
        except asyncio.CancelledError:
            if not self._client_left:
                raise
            self._task.uncancel()
        except ClientGone:
            pass
        finally:
            self._finish_usage()

    async def _answer(self) -> None:
        try:
            await self._serve()
        except errors.PlatformError as error:
            await self._answer_error(self._end_error or error)
        except ClientGone:
            raise
        except Exception:  # a bug of ours: the client gets an error in its surface's form, the log the rest
            await self._answer_error(self._out.report_bug())

    async def _serve(self) -> None:
        caller = self.caller = await self._context.authenticate(self._out.headers)
        logs.bind(tenant=caller.tenant_id)
        require_permission(caller, Permission.INFER)
        body = generation.parse_body(await self._read_body())
        ref = self._ref if self._ref is not None else generation.model_ref(body)
        find = partial(model_lookup.resolve_model, caller, ref)
        model = await self._context.source.decide(find, wait_for_changes=True)
        dispatch = self._dispatch = self._admit(caller, model, body)
        self._client_watch = asyncio.create_task(self._watch_client())
        await (self._answer_stream(dispatch) if dispatch.streams else self._answer_whole(dispatch))

    async def _read_body(self) -> bytes:
        max_bytes = self._context.config.max_body
        if int(self._out.headers.get(b"content-length", b"0")) > max_bytes:
            raise errors.TooLarge()
        try:
            async with asyncio.timeout(self._context.config.body_timeout):
                return await self._read_parts(max_bytes)
        except TimeoutError:
            raise errors.InvalidRequest(_("The body did not arrive in time."), status=408) from None

    async def _read_parts(self, max_bytes: int) -> bytes:
        parts: list[bytes] = []
        size, more = 0, True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > max_bytes:
                raise errors.TooLarge()
            more = message.get("more_body", False)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _admit(self, caller: Caller, model: ModelEntry, body: JsonObject) -> Dispatch:
        """Check the request; from here on it has a usage record. Raises InvalidRequest, or NotFound for a route."""
        operation = dialects.engine_operation(self._operation, model.engine)
        salt_key = self._context.config.salt_key
        prepared = generation.prepare_request(operation, body, model, caller.tenant_id, salt_key)
        if prepared.ignored:
            self._tell_ignored(prepared.ignored)
        record = RequestRecord(
            tenant_id=caller.tenant_id, key_id=caller.key_id, user_id=caller.user_id,
            model_id=model.id, model_name=model.name, route=operation.name, stream=prepared.stream,
            request_id=self._out.request_id,
        )  # fmt: skip
        self._context.sink.admit(record)
        return Dispatch(self._context, operation, model, prepared, record)

    def _tell_ignored(self, names: list[str]) -> None:
        """Protocols of others: in a header of the reply. Our own routes raise InvalidRequest, as all below /api."""
        if self._out.path.startswith("/api/"):
            raise field_error(printable_name(names[0]), _("there is no such field."))
        self._out.extra_headers.append((IGNORED_HEADER.lower().encode(), ignored_value(names).encode()))

    async def _answer_whole(self, dispatch: Dispatch) -> None:
        generated_id = self._out.path.endswith("/generate")
        body = await dispatch.read_reply(generated_id=generated_id)
        self._set_outcome(dispatch.record, usage.OK, 200)
        await self._out.json(body)

    async def _answer_stream(self, dispatch: Dispatch) -> None:
        stream = await dispatch.open_stream()
        events = stream.first_events
        dispatch.record.ttft_ms = self._elapsed_ms()
        await self._out.begin_events(named=dispatch.operation.named_events)
        while not stream.relay.done:
            await self._out.events(events, more=True)
            events = await dispatch.next_events(stream)
        self._set_outcome(dispatch.record, usage.OK, 200)
        await self._out.events(events, more=False)
        await stream.drain()

    async def _answer_error(self, error: errors.PlatformError) -> None:
        if self._dispatch:
            http_status = self._out.status or status_for(error, self._out.path)
            self._set_outcome(self._dispatch.record, _outcome(error, self._dispatch), http_status)
        self._finished = True
        await self._out.error(error)

    def _set_outcome(self, record: RequestRecord, status: str, http_status: int) -> None:
        """From here on a disconnect of the client changes nothing."""
        self._finished = True
        record.status, record.http_status = status, http_status

    def _finish_usage(self) -> None:
        if self._client_watch:
            self._client_watch.cancel()
        if self._dispatch is None:
            return
        record = self._dispatch.record
        if not self._finished:
            record.status = usage.CLIENT_CLOSED if self._client_left else usage.UPSTREAM_ERROR
            record.http_status = self._out.status or CLIENT_CLOSED_REQUEST
        record.duration_ms = self._elapsed_ms()
        record.usage, record.queue_ms = self._dispatch.usage(), self._dispatch.queue_ms
        self._dispatch.close()
        self._context.sink.finish_usage(record)

    def _elapsed_ms(self) -> int:
        return int((time.monotonic() - self._started_at) * 1000)

    # --- the client

    async def _watch_client(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.cancel()

    def cancel(self) -> None:
        """The client has disconnected: cancel the request."""
        if not self._finished and not self._client_left:
            self._client_left = True
            self._task.cancel()

    def terminate(self, error: errors.PlatformError) -> None:
        """End the request from outside, for example when its key was revoked."""
        if self._dispatch and not self._finished:
            self._end_error = error
            self._dispatch.abort()


def _outcome(error: errors.PlatformError, dispatch: Dispatch) -> str:
    """A request that was not forwarded, or that an engine refused, is `rejected`."""
    if error.status < 500 or dispatch.forwarded_at is None:
        return usage.REJECTED
    return usage.TIMEOUT if isinstance(error, errors.OperationTimeout) else usage.UPSTREAM_ERROR
