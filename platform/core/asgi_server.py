"""The ASGI server around this process: the types of its interface, a client's connection, and shutdown."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

AsgiScope = dict[str, Any]
AsgiMessage = Mapping[str, Any]
Receive = Callable[[], Awaitable[AsgiMessage]]
Send = Callable[[AsgiMessage], Awaitable[None]]
AsgiApplication = Callable[[AsgiScope, Receive, Send], Awaitable[None]]


class ShutdownFlag:
    """Whether this process must stop. Endless streams then end."""

    def __init__(self) -> None:
        self.begun = False

    def begin(self) -> None:
        self.begun = True


shutdown = ShutdownFlag()


def transport_of(send: Callable[..., Awaitable[None]]) -> asyncio.Transport | None:
    """uvicorn's transport; None under a server that does not expose it."""
    return getattr(getattr(send, "__self__", None), "transport", None)


def drop_client(send: Callable[..., Awaitable[None]]) -> None:
    """Drop a client that does not read; a normal close would wait until it reads. ASGI has no message for that."""
    if transport := transport_of(send):
        transport.abort()
