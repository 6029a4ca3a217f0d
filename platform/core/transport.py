"""The client's connection behind an ASGI `send`: ASGI has no message that drops a client that never reads."""


def transport_of(send):
    """uvicorn's transport; None under a server that does not expose it."""
    return getattr(getattr(send, "__self__", None), "transport", None)


def drop_client(send) -> None:
    """Drop a client that does not read; a normal close would wait until it reads."""
    if transport := transport_of(send):
        transport.abort()
