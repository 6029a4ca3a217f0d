"""Which routes /openapi.json shows."""

MIRROR_PREFIX, OWN_ROUTES = (
    "/api/v1/",
    ("/api/v1/health", "/api/v1/health/details", "/api/v1/models", "/api/v1/models/{ref}"),
)


def without_mirror(endpoints: list[tuple], **_options) -> list[tuple]:
    """A preprocessing hook of drf-spectacular: hides the routes below /api/v1 that equal those below /api."""
    return [endpoint for endpoint in endpoints if not endpoint[0].startswith(MIRROR_PREFIX) or _is_own(endpoint)]


def _is_own(endpoint: tuple) -> bool:
    """A GET route that differs below /api/v1 or exists only there."""
    path, _pattern, method, _view = endpoint
    return method == "GET" and path in OWN_ROUTES
