"""Which routes /openapi.json shows."""

MIRROR, OWN = "/api/v1/", ("/api/v1/health", "/api/v1/health/details", "/api/v1/models", "/api/v1/models/{ref}")


def without_mirror(endpoints: list[tuple], **_options) -> list[tuple]:
    """A preprocessing hook of drf-spectacular: what is below /api/v1 equals what is below /api."""
    return [endpoint for endpoint in endpoints if not endpoint[0].startswith(MIRROR) or _is_own(endpoint)]


def _is_own(endpoint: tuple) -> bool:
    """Read otherwise there, or only there."""
    path, _pattern, method, _view = endpoint
    return method == "GET" and path in OWN
