"""The platform's errors as the data plane renders them: in the form of OpenAI, of Anthropic, or of the REST API.

ContextTooLong       an InvalidRequest with OpenAI's own code
MethodNotAllowed     405: the path exists, but not with this method
UnsupportedEncoding  415: the body is compressed in a way that is not read
"""

from typing import NamedTuple

import orjson
from django.utils import translation
from django.utils.text import format_lazy
from django.utils.translation import gettext_lazy as _

from core import errors
from gateway.json_types import JsonObject

Headers = list[tuple[bytes, bytes]]

READ_ENCODINGS = "gzip, deflate"
ANTHROPIC_PATH = "/v1/messages"
ANTHROPIC_TYPES = {  # by status; a client's other mistakes are invalid requests, our other failures API errors
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class ContextTooLong(errors.InvalidRequest):
    openai = "invalid_request_error", "context_length_exceeded"


class MethodNotAllowed(errors.PlatformError):
    status, code, message = 405, "INVALID_REQUEST", _("This method is not offered here.")
    openai = "invalid_request_error", None


class UnsupportedEncoding(errors.PlatformError):
    status, code = 415, "INVALID_REQUEST"
    message = format_lazy(
        _("Content-Encoding: this compression is not read. Use one of {allowed}, or none."), allowed=READ_ENCODINGS
    )
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


def render(error: errors.PlatformError, path: str, language: str = "en", request_id: str = "") -> ErrorReply:
    """The error in the form of the surface that `path` belongs to."""
    headers = [(name.lower().encode(), value.encode()) for name, value in errors.headers_for(error).items()]
    if error.status == 415:
        headers.append((b"accept-encoding", READ_ENCODINGS.encode()))
    if error.status in (408, 413, 415):
        headers.append((b"connection", b"close"))  # instead of reading the rest
    return ErrorReply(status_for(error, path), headers, orjson.dumps(_render_body(error, path, language, request_id)))


def render_event(
    error: errors.PlatformError, path: str, language: str = "en", request_id: str = "", *, named: bool = False
) -> bytes:
    """The same as the last event of a broken stream; with `named`, as an event named `error`."""
    body = _render_body(error, path, language, request_id)
    event = body if _is_openai(path) else {"error": body["error"]}
    if named:
        return b"event: error\ndata: " + orjson.dumps({"type": "error", **event}) + b"\n\n"
    return b"data: " + orjson.dumps(event) + b"\n\n"


def _render_body(error: errors.PlatformError, path: str, language: str, request_id: str) -> JsonObject:
    """Messages are lazy: they become text here, in the client's language."""
    with translation.override(language):
        if is_anthropic(path):
            return _render_anthropic(error, status_for(error, path), request_id)
        return errors.render_openai(error) if _is_openai(path) else errors.render(error, path)


def _render_anthropic(error: errors.PlatformError, status: int, request_id: str) -> JsonObject:
    kind = ANTHROPIC_TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
    message = errors.render_openai(error)["error"]["message"]
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": request_id}


def is_anthropic(path: str) -> bool:
    return path == ANTHROPIC_PATH or path.startswith(ANTHROPIC_PATH + "/")


def _is_openai(path: str) -> bool:
    return not path.startswith("/api/")
