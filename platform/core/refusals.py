"""Refusals of requests that Django's middleware never sees, with all that it would have given them."""

from django.http import JsonResponse
from django.utils import translation

from core import cors
from core.errors import PlatformError, json_response
from core.language import language_of
from core.middleware import request_id_from


def refusal(scope, error: PlatformError) -> JsonResponse:
    """In the caller's language, readable for the origins that may read our answers."""
    asked = dict(scope["headers"])
    with translation.override(language_of(asked.get(b"accept-language"))):
        response = json_response(error, scope["path"])
    response["X-Request-Id"] = request_id_from(_text(asked, b"x-request-id"))
    for name, value in cors.headers_for(_text(asked, b"origin")).items():
        response[name] = value
    return response


def _text(headers: dict[bytes, bytes], name: bytes) -> str:
    return headers.get(name, b"").decode("latin-1")
