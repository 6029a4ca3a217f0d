"""Paths by which the ASGI application sends requests to training's views."""

# bodies of these reach their view as they come
UPLOADS = ("/api/datasets", "/api/v1/datasets", "/v1/files")
_OPENAI = ("/v1/files", "/v1/fine_tuning")


def opens(path: str) -> bool:
    """Whether a path below /v1/, which is otherwise the data plane's, leads here."""
    return any(path == door or path.startswith(f"{door}/") for door in _OPENAI)
