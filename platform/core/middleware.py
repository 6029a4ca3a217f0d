"""What every HTTP answer of Django gets: a request id, and CORS for the configured origins."""

import re
import uuid

from django.conf import settings
from django.http import HttpResponse
from django.utils.translation import gettext as _

from core.errors import InvalidRequest, json_response

REQUEST_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)
ALLOWED_HEADERS = "Authorization, Content-Type, X-API-Key, X-Request-Id, Serai-Tenant, Accept-Language, Last-Event-ID"
ALLOWED_METHODS = "GET, POST, PUT, PATCH, DELETE, OPTIONS"


def request_id_from(given: str | None) -> str:
    """The caller's request id if it is harmless, else a new one."""
    return given if given and REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def cors_headers(origin: str | None) -> dict[str, str]:
    """Headers that let a browser at `origin` read the answer; none unless the operator named it."""
    if not origin or not ({"*", origin} & set(settings.CORS_ORIGINS)):
        return {}
    return {
        "Access-Control-Allow-Origin": origin,
        "Access-Control-Allow-Methods": ALLOWED_METHODS,
        "Access-Control-Allow-Headers": ALLOWED_HEADERS,
        "Access-Control-Expose-Headers": "X-Request-Id, Retry-After",
        "Access-Control-Max-Age": "600",
        "Vary": "Origin",
    }


class RequestIdMiddleware:
    sync_capable, async_capable = True, False

    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        request.request_id = request_id_from(request.headers.get("X-Request-Id"))
        response = self.get_response(request)
        response["X-Request-Id"] = request.request_id
        return response


class NulMiddleware:
    """Postgres holds no NUL in text: a path or query with one would be a bug's 500 wherever it is looked up."""

    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        if "\0" in request.path or "%00" in request.META.get("QUERY_STRING", ""):
            return json_response(InvalidRequest(_("An address holds no NUL."), status=400), request.path)
        return self.get_response(request)


class CorsMiddleware:
    """Credentials in cookies are never allowed across origins: other origins bring a token."""

    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        headers = cors_headers(request.headers.get("Origin"))
        preflight = request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers
        response = HttpResponse(status=204) if preflight and headers else self.get_response(request)
        for name, value in headers.items():
            response[name] = value
        return response
