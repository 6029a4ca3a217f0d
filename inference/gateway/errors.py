"""The cause table's last two columns: the platform's errors in the words of OpenAI, or of the REST API.

ContextTooLong   an InvalidRequest with OpenAI's own code
NotAllowed       405: a known path, another method
"""

import orjson
from django.utils import translation
from django.utils.translation import gettext_lazy as _
from django.utils.translation.trans_real import parse_accept_lang_header

from core import errors


class ContextTooLong(errors.InvalidRequest):
    openai_code = "context_length_exceeded"


class NotAllowed(errors.PlatformError):
    status, code, message = 405, "INVALID_REQUEST", _("This method is not offered here.")


OPENAI = {  # code → type, code
    "INVALID_REQUEST": ("invalid_request_error", None),
    "AUTHENTICATION_FAILED": ("authentication_error", "invalid_api_key"),
    "AUTHORIZATION_FAILED": ("permission_error", None),
    "MODEL_NOT_FOUND": ("invalid_request_error", "model_not_found"),
    "NOT_FOUND": ("invalid_request_error", "not_found"),
    "CONFLICT": ("invalid_request_error", "conflict"),
    "MODEL_NOT_RUNNING": ("api_error", "model_not_ready"),
    "INSUFFICIENT_RESOURCES": ("api_error", "insufficient_resources"),
    "ENGINE_UNAVAILABLE": ("api_error", "engine_unavailable"),
    "SERVICE_UNAVAILABLE": ("api_error", "service_unavailable"),
    "OPERATION_TIMEOUT": ("api_error", "timeout"),
    "RATE_LIMITED": ("rate_limit_error", "rate_limit_exceeded"),
}
TOLD = ("state", "expected_seconds", "failure_reason", "context")  # of an error's details, to clients of models


def is_openai(path: str) -> bool:
    return not path.startswith("/api/")


def status_for(error: errors.PlatformError, path: str) -> int:
    if is_openai(path):
        return 400 if error.status == 422 else error.status
    return errors.status_for(error, path)


def render(error: errors.PlatformError, path: str, language: str = "en") -> bytes:
    """The error's body in the form of the surface that `path` belongs to."""
    with translation.override(language):
        return orjson.dumps(_openai(error) if is_openai(path) else errors.render(error, path))


def render_event(error: errors.PlatformError, path: str, language: str = "en") -> bytes:
    """The same as the last event of a stream that broke off."""
    with translation.override(language):
        body = _openai(error) if is_openai(path) else {"error": errors.render(error, path)["error"]}
        return b"data: " + orjson.dumps(body) + b"\n\n"


def headers_for(error: errors.PlatformError) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode()) for name, value in errors.headers_for(error).items()]


def _openai(error: errors.PlatformError) -> dict:
    kind, code = OPENAI.get(error.code, ("api_error", "internal_error"))
    body = {
        "message": str(error.message),
        "type": kind,
        "param": error.param,
        "code": getattr(error, "openai_code", code),
    }
    if details := {field: error.details[field] for field in TOLD if field in error.details}:
        body["details"] = details
    return {"error": body}


def language_of(accept_language: bytes | None) -> str:
    """The first language of the header that the platform speaks."""
    if not accept_language:
        return "en"
    for code, _quality in parse_accept_lang_header(accept_language.decode("latin-1").lower()):
        try:
            return translation.get_supported_language_variant(code)
        except LookupError:
            continue
    return "en"
