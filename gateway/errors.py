"""The platform's errors as the data plane renders them: in OpenAI's form or in that of the REST API.

ContextTooLong   an InvalidRequest with OpenAI's own code
MethodNotAllowed 405: the path exists, but not with this method
"""

from typing import NamedTuple

import orjson
from django.utils import translation
from django.utils.translation import gettext_lazy as _

from core import errors
from gateway.json_types import JsonObject

Headers = list[tuple[bytes, bytes]]


class ContextTooLong(errors.InvalidRequest):
    openai = "invalid_request_error", "context_length_exceeded"


class MethodNotAllowed(errors.PlatformError):
    status, code, message = 405, "INVALID_REQUEST", _("This method is not offered here.")
    openai = "invalid_request_error", None


class ErrorReply(NamedTuple):
    """An error as a whole HTTP reply."""

    status: int
    headers: Headers
    body: bytes


def status_for(error: errors.PlatformError, path: str) -> int:
    if _is_openai(path):
        return 400 if error.status == 422 else error.status
    return errors.status_for(error, path)


def render(error: errors.PlatformError, path: str, language: str = "en") -> ErrorReply:
    """The error in the form of the surface that `path` belongs to."""
    headers = [(name.lower().encode(), value.encode()) for name, value in errors.headers_for(error).items()]
    if error.status in (408, 413):
        headers.append((b"connection", b"close"))  # instead of reading the rest
    return ErrorReply(status_for(error, path), headers, orjson.dumps(_render_body(error, path, language)))


def render_event(error: errors.PlatformError, path: str, language: str = "en", *, named: bool = False) -> bytes:
    """The same as the last event of a broken stream; with `named`, as an event named `error`."""
    body = _render_body(error, path, language)
    event = body if _is_openai(path) else {"error": body["error"]}
    if named:
        return b"event: error\ndata: " + orjson.dumps({"type": "error", **event}) + b"\n\n"
    return b"data: " + orjson.dumps(event) + b"\n\n"


def _render_body(error: errors.PlatformError, path: str, language: str) -> JsonObject:
    """Messages are lazy: they become text here, in the client's language."""
    with translation.override(language):
        return errors.render_openai(error) if _is_openai(path) else errors.render(error, path)


def _is_openai(path: str) -> bool:
    return not path.startswith("/api/")
