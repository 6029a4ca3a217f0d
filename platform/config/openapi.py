"""Which routes /openapi.json shows."""

MIRROR = "/api/v1/"


def without_mirror(endpoints: list[tuple], **_options) -> list[tuple]:
    """A preprocessing hook of drf-spectacular: what is below /api/v1 equals what is below /api."""
    return [endpoint for endpoint in endpoints if not endpoint[0].startswith(MIRROR)]
