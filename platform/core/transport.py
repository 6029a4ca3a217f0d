"""The client's connection behind an ASGI `send`: ASGI has no word for dropping a client that never reads."""


def transport_of(send):
    """uvicorn's transport; None under a server that keeps it to itself."""
    return getattr(getattr(send, "__self__", None), "transport", None)


def abandon(send) -> None:
    """Drop a client that does not read; closing would wait for the reader."""
    if transport := transport_of(send):
        transport.abort()
