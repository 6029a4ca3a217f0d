"""An ASGI layer before Django, which by itself would write a body of any size to disk before asking who sends it."""

from core.errors import TooLarge
from core.refusals import refusal


class BodyTooLarge(Exception):
    pass


class BodyLimit:
    """Answers 413 to a request whose body is larger than `most` bytes, declared or as it comes.

    `larger` has the limits of those paths that take more.
    """

    def __init__(self, app, most: int, larger: dict[str, int]):
        self.app, self.most, self.larger = app, most, larger

    async def __call__(self, scope, receive, send):
        most, received = self.larger.get(scope["path"], self.most), 0

        async def counted():
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > most:
                raise BodyTooLarge
            return message

        if _declared(scope) > most:
            return await _refuse(scope, send)
        try:
            await self.app(scope, counted, send)
        except BodyTooLarge:
            await _refuse(scope, send)


def _declared(scope) -> int:
    length = dict(scope["headers"]).get(b"content-length", b"0")
    return int(length) if length.isdigit() else 0


async def _refuse(scope, send) -> None:
    """What is left of the body is not read: the connection ends."""
    response = refusal(scope, TooLarge())
    response["Connection"] = "close"
    headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in response.items()]
    await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
    await send({"type": "http.response.body", "body": response.content})
