"""What every HTTP response of Django gets: a request id, and CORS headers for the configured origins."""

import re
import uuid
from collections.abc import Callable

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.utils.cache import patch_vary_headers
from django.utils.translation import gettext as _

from core import cors, logs
from core.errors import InvalidRequest, json_response

GetResponse = Callable[[HttpRequest], HttpResponseBase]
REQUEST_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)


def request_id_from(given: str | None) -> str:
    """The caller's request id if it is well-formed, else a new one."""
    return given if given and REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


class IdentifiedRequest(HttpRequest):
    """A request that RequestIdMiddleware has seen."""

    request_id: str


class RequestIdMiddleware:
    sync_capable, async_capable = True, False

    def __init__(self, get_response: GetResponse):
        self.get_response = get_response

    def __call__(self, request: IdentifiedRequest) -> HttpResponseBase:
        request.request_id = request_id_from(request.headers.get("X-Request-Id"))
        with logs.bound(request_id=request.request_id):
            response = self.get_response(request)
        response["X-Request-Id"] = request.request_id
        return response


class NulMiddleware:
    """Refuses NUL in a path or query: Postgres stores none in text, so each lookup with one would answer 500."""

    def __init__(self, get_response: GetResponse):
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        if "\0" in request.path or "%00" in request.META.get("QUERY_STRING", ""):
            return json_response(InvalidRequest(_("An address holds no NUL."), status=400), request.path)
        return self.get_response(request)


class CorsMiddleware:
    """Answers preflights, which carry no credential, and adds headers to all other responses, errors too."""

    def __init__(self, get_response: GetResponse):
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        preflight = request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers
        allowed = cors.headers_for(request.headers.get("Origin"), preflight=preflight)
        response = HttpResponse(status=204) if preflight and allowed else self.get_response(request)
        if settings.CORS_ORIGINS:
            patch_vary_headers(response, [allowed.pop("Vary", "Origin")])
        for name, value in allowed.items():
            response[name] = value
        return response
