"""Which pages of other origins may read our responses: those that the operator listed exactly in SERAI_CORS_ORIGINS.

Cookies are never allowed across origins: such a page sends a key or a token.
"""

import re

from django.conf import settings

ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[a-z0-9.-]+(:\d+)?|[a-z][a-z0-9+.-]*://\[[0-9a-f:.]+\](:\d+)?", re.ASCII)
EXPOSED = "X-Request-Id, Retry-After, Serai-Ignored"
PREFLIGHT_HEADERS = {
    "Access-Control-Allow-Methods": "GET, POST, PUT, PATCH, DELETE, OPTIONS",
    "Access-Control-Allow-Headers": (
        "Authorization, Content-Type, X-API-Key, X-Request-Id, Serai-Tenant, Accept-Language, Last-Event-ID"
    ),
    "Access-Control-Max-Age": "600",
}


def is_origin(text: str) -> bool:
    """Scheme, host and port as a browser writes them; no path, and no wildcard."""
    return ORIGIN.fullmatch(text) is not None


def headers_for(origin: str | None, *, preflight: bool = False) -> dict[str, str]:
    """Headers that let a page of `origin` read the response; none unless the operator listed it."""
    if not origin or origin not in settings.CORS_ORIGINS:
        return {}
    headers = {"Access-Control-Allow-Origin": origin, "Access-Control-Expose-Headers": EXPOSED, "Vary": "Origin"}
    return headers | PREFLIGHT_HEADERS if preflight else headers
