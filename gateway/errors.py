"""The platform's errors as the data plane renders them: in OpenAI's form or in that of the REST API.

ContextTooLong   an InvalidRequest with OpenAI's own code
MethodNotAllowed 405: the path exists, but not with this method
"""

import orjson
from django.utils import translation
from django.utils.translation import gettext_lazy as _

from core import errors


class ContextTooLong(errors.InvalidRequest):
    openai = "invalid_request_error", "context_length_exceeded"


class MethodNotAllowed(errors.PlatformError):
    status, code, message = 405, "INVALID_REQUEST", _("This method is not offered here.")
    openai = "invalid_request_error", None


def is_openai(path: str) -> bool:
    return not path.startswith("/api/")


def status_for(error: errors.PlatformError, path: str) -> int:
    if is_openai(path):
        return 400 if error.status == 422 else error.status
    return errors.status_for(error, path)


def render(error: errors.PlatformError, path: str, language: str = "en") -> bytes:
    """The error's body in the form of the surface that `path` belongs to."""
    with translation.override(language):
        return orjson.dumps(errors.render_openai(error) if is_openai(path) else errors.render(error, path))


def render_event(error: errors.PlatformError, path: str, language: str = "en", *, named: bool = False) -> bytes:
    """The same as the last event of a broken stream; with `named`, as an event named `error`."""
    with translation.override(language):
        body = errors.render_openai(error) if is_openai(path) else {"error": errors.render(error, path)["error"]}
    if named:
        return b"event: error\ndata: " + orjson.dumps({"type": "error", **body}) + b"\n\n"
    return b"data: " + orjson.dumps(body) + b"\n\n"


def headers_for(error: errors.PlatformError) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode()) for name, value in errors.headers_for(error).items()]
