"""The data plane's answers as ASGI messages: JSON, event streams, and errors in their surface's form."""

import logging
import time
import uuid

import orjson

from core import cors
from core.asgi_server import AsgiScope, Send, drop_client, transport_of
from core.errors import PlatformError
from core.language import language_of
from core.middleware import request_id_from
from gateway.errors import Headers, render, render_event

logger = logging.getLogger(__name__)

JSON = (b"content-type", b"application/json")
EVENTS: Headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]


class Responder:
    """`status` is 0 until the answer has begun; `sending_since` is when the send in progress began, 0 without one.

    `request_id` is the usage record's, `shown_request_id` the client's own if it sent a valid one. `extra_headers` go
    with the answer.
    """

    def __init__(self, scope: AsgiScope, send: Send) -> None:
        self._send = send
        self.path: str = scope["path"]
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.request_id = str(uuid.uuid4())
        client_id = self.headers.get(b"x-request-id")
        self.shown_request_id = request_id_from(client_id.decode("latin-1")) if client_id else self.request_id
        self.status = 0
        self.extra_headers: Headers = []
        self._named_events = False
        self.sending_since = 0.0

    async def json(self, body: object, status: int = 200, headers: Headers | None = None) -> None:
        """`body` is JSON already, or something that orjson can write."""
        data = body if type(body) is bytes else orjson.dumps(body)
        length = (b"content-length", b"%d" % len(data))
        await self._start(status, [JSON, length, *(headers or [])])
        await self._send_body(data, more=False)

    async def preflight(self) -> None:
        """Answer a browser's CORS preflight, which has no credential."""
        await self._start(204, [], preflight=True)
        await self._send_body(b"", more=False)

    async def begin_events(self, *, named: bool = False) -> None:
        self._named_events = named
        await self._start(200, EVENTS)

    async def events(self, data: bytes, *, more: bool) -> None:
        await self._send_body(data, more=more)

    async def error(self, error: PlatformError) -> None:
        """Send it as a whole answer or, in a stream, as the last event, without `[DONE]`."""
        language = language_of(self.headers.get(b"accept-language"))
        if self.status:
            return await self._send_body(render_event(error, self.path, language, named=self._named_events), more=False)
        reply = render(error, self.path, language)
        await self.json(reply.body, reply.status, reply.headers)

    def report_bug(self) -> PlatformError:
        """Log the exception being handled, a bug of ours; the client gets only the request id."""
        logger.exception("request %s (%s)", self.request_id, self.shown_request_id)
        return PlatformError(details={"request_id": self.shown_request_id})

    def unsent(self) -> int:
        """Bytes that the server still holds for the client."""
        transport = transport_of(self._send)
        return 0 if transport is None or transport.is_closing() else transport.get_write_buffer_size()

    def abandon(self) -> None:
        """Drop a client that does not read."""
        drop_client(self._send)

    async def _start(self, status: int, headers: Headers, *, preflight: bool = False) -> None:
        headers = [*headers, *self.extra_headers, (b"x-request-id", self.shown_request_id.encode())]
        if origin := self.headers.get(b"origin"):
            allowed = cors.headers_for(origin.decode("latin-1"), preflight=preflight)
            headers += [(name.lower().encode(), value.encode("latin-1")) for name, value in allowed.items()]
        self.status = status
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def _send_body(self, data: bytes, *, more: bool) -> None:
        self.sending_since = time.monotonic()
        await self._send({"type": "http.response.body", "body": data, "more_body": more})
        self.sending_since = 0.0
