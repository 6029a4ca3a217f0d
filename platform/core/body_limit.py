"""An ASGI layer that limits body sizes. Django alone writes a body of any size to disk before it authenticates."""

from core.asgi_errors import error_response
from core.asgi_server import AsgiApplication, AsgiMessage, AsgiScope, Receive, Send
from core.errors import TooLarge


class BodyTooLarge(Exception):
    pass


class BodyLimit:
    """Answers 413 to a request whose body is larger than `max_bytes`, as declared or as received.

    `limits_by_path` holds the limits of paths that accept more.
    """

    def __init__(self, app: AsgiApplication, max_bytes: int, limits_by_path: dict[str, int]):
        self.app, self.max_bytes, self.limits_by_path = app, max_bytes, limits_by_path

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        limit, received = self.limits_by_path.get(scope["path"], self.max_bytes), 0

        async def counting_receive() -> AsgiMessage:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise BodyTooLarge
            return message

        if _content_length(scope) > limit:
            return await _refuse(scope, send)
        try:
            await self.app(scope, counting_receive, send)
        except BodyTooLarge:
            await _refuse(scope, send)


def _content_length(scope: AsgiScope) -> int:
    length = dict(scope["headers"]).get(b"content-length", b"0")
    return int(length) if length.isdigit() else 0


async def _refuse(scope: AsgiScope, send: Send) -> None:
    """The rest of the body is not read; the connection is closed."""
    response = error_response(scope, TooLarge())
    response["Connection"] = "close"
    headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in response.items()]
    await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
    await send({"type": "http.response.body", "body": response.content})
