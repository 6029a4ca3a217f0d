"""Error responses to requests that Django's middleware never sees, with the headers that it would add."""

from django.http import JsonResponse
from django.utils import translation

from core import cors
from core.asgi_server import AsgiScope
from core.errors import PlatformError, json_response
from core.language import language_of
from core.middleware import request_id_from


def error_response(scope: AsgiScope, error: PlatformError) -> JsonResponse:
    """In the caller's language, with CORS headers for the allowed origins."""
    request_headers = dict(scope["headers"])
    with translation.override(language_of(request_headers.get(b"accept-language"))):
        response = json_response(error, scope["path"])
    response["X-Request-Id"] = request_id_from(_header(request_headers, b"x-request-id"))
    for name, value in cors.headers_for(_header(request_headers, b"origin")).items():
        response[name] = value
    return response


def _header(headers: dict[bytes, bytes], name: bytes) -> str:
    return headers.get(name, b"").decode("latin-1")
