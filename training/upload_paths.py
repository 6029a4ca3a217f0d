"""Paths that the ASGI application routes to the training views."""

# request bodies on these paths are streamed to the view
UPLOAD_PATHS = ("/api/datasets", "/api/v1/datasets", "/v1/files")
_OPENAI_PREFIXES = ("/v1/files", "/v1/fine_tuning")


def is_training_path(path: str) -> bool:
    """Whether a path below /v1/ is one of training; the others are the gateway's."""
    return any(path == prefix or path.startswith(f"{prefix}/") for prefix in _OPENAI_PREFIXES)
