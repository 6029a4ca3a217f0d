"""One request in the data plane, from its first byte to its usage record, which is finished in every case."""

import asyncio
import time

from django.utils.translation import gettext_lazy as _

from accounts.policy import Permission
from core import errors, logs
from gateway.api import dialects, generation
from gateway.api.operation import Operation, PreparedRequest
from gateway.dispatch import Dispatch
from gateway.errors import status_for
from gateway.metering.meter import RequestRecord
from gateway.responder import Responder
from gateway.routing import authentication, model_lookup
from gateway.routing.snapshot import Caller
from inference import usage

CLIENT_CLOSED_REQUEST = 499  # only for the usage record: the client is gone


class ClientGone(Exception):
    """The client left while its request was still being read."""


class Exchange:
    """One request. `ref` is the model named in the path, None where the body names it."""

    def __init__(self, gateway, out: Responder, receive, operation: Operation, ref: str | None):
        self._gateway, self._out, self._receive = gateway, out, receive
        self._operation, self._ref = operation, ref
        self._started_at = time.monotonic()
        self._task = asyncio.current_task()
        self._client_watch: asyncio.Task | None = None
        self._record: RequestRecord | None = None
        self._dispatch: Dispatch | None = None
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
        source = self._gateway.source
        self.caller = await self._gateway.authenticate(self._out.headers)
        logs.bind(tenant=self.caller.tenant_id)
        authentication.require_permission(self.caller, Permission.INFER)
        body = generation.parse_body(await self._read_body())
        ref = self._ref if self._ref is not None else generation.model_ref(body)
        model = await source.decide(
            lambda snapshot: model_lookup.resolve_model(self.caller, ref, snapshot), wait_for_changes=True
        )
        self._operation = dialects.engine_operation(self._operation, model.engine)
        salt_key = self._gateway.config.salt_key
        prepared = generation.prepare_request(self._operation, body, model, self.caller.tenant_id, salt_key)
        self._admit(model, prepared)
        self._client_watch = asyncio.create_task(self._watch_client())
        self._dispatch = Dispatch(self._gateway, self._operation, model, prepared, self._record)
        await (self._answer_stream() if prepared.stream else self._answer_whole())

    async def _read_body(self) -> bytes:
        max_bytes = self._gateway.config.max_body
        if int(self._out.headers.get(b"content-length", b"0")) > max_bytes:
            raise errors.TooLarge()
        try:
            async with asyncio.timeout(self._gateway.config.body_timeout):
                return await self._read_parts(max_bytes)
        except TimeoutError:
            raise errors.InvalidRequest(_("The body did not arrive in time."), status=408) from None

    async def _read_parts(self, max_bytes: int) -> bytes:
        parts, size, more = [], 0, True
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

    def _admit(self, model, prepared: PreparedRequest) -> None:
        caller = self.caller
        self._record = RequestRecord(
            tenant_id=caller.tenant_id, key_id=caller.key_id, user_id=caller.user_id,
            model_id=model.id, model_name=model.name, route=self._operation.name, stream=prepared.stream,
            request_id=self._out.request_id,
        )  # fmt: skip
        self._gateway.sink.admit(self._record)

    async def _answer_whole(self) -> None:
        generated_id = self._out.path.endswith("/generate")
        body = await self._dispatch.read_reply(generated_id=generated_id)
        self._set_outcome(usage.OK, 200)
        await self._out.json(body)

    async def _answer_stream(self) -> None:
        events = await self._dispatch.first_events()
        self._record.ttft_ms = self._elapsed_ms()
        await self._out.begin_events(named=self._operation.named_events)
        while not self._dispatch.relay.done:
            await self._out.events(events, more=True)
            events = await self._dispatch.next_events()
        self._set_outcome(usage.OK, 200)
        await self._out.events(events, more=False)
        await self._dispatch.drain()

    async def _answer_error(self, error: errors.PlatformError) -> None:
        if self._record:
            self._set_outcome(self._outcome(error), self._out.status or status_for(error, self._out.path))
        self._finished = True
        await self._out.error(error)

    def _outcome(self, error: errors.PlatformError) -> str:
        """A request that was not forwarded, or that an engine refused, is `rejected`."""
        if error.status < 500 or self._dispatch is None or self._dispatch.forwarded_at is None:
            return usage.REJECTED
        return usage.TIMEOUT if isinstance(error, errors.OperationTimeout) else usage.UPSTREAM_ERROR

    def _set_outcome(self, status: str, http_status: int) -> None:
        """From here on a disconnect of the client changes nothing."""
        self._finished = True
        self._record.status, self._record.http_status = status, http_status

    def _finish_usage(self) -> None:
        if self._client_watch:
            self._client_watch.cancel()
        record, dispatch = self._record, self._dispatch
        if record is None:
            return
        if not self._finished:
            record.status = usage.CLIENT_CLOSED if self._client_left else usage.UPSTREAM_ERROR
            record.http_status = self._out.status or CLIENT_CLOSED_REQUEST
        record.duration_ms = self._elapsed_ms()
        if dispatch:
            record.usage, record.queue_ms = dispatch.usage(), dispatch.queue_ms
            dispatch.close()
        self._gateway.sink.finish_usage(record)

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
