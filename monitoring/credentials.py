"""Who opened a socket: header, console log-in with our own Origin, or the first message. Asked again while it lives."""

from collections.abc import Mapping
from dataclasses import dataclass

from django.conf import settings
from django.http import parse_cookie
from django.http.request import split_domain_port, validate_host
from django.utils.datastructures import CaseInsensitiveMapping

from accounts import authentication
from accounts.actor import Actor
from accounts.policy import Permission
from core.errors import Forbidden, PlatformError, Unauthenticated


@dataclass(frozen=True)
class Credential:
    """What was shown; `reader` holds it against the database each time, so that a revoked one ends."""

    secret: str | None = None
    session_key: str | None = None
    tenant: str | None = None

    def reader(self) -> Actor:
        """Who may listen. Raises Forbidden, Unauthenticated, or NotFound for a foreign tenant."""
        actor = self._actor()
        if not actor.may(Permission.READ) or not (actor.tenant or actor.sees_all):
            raise Forbidden
        return actor

    def _actor(self) -> Actor:
        if self.secret:
            return authentication.actor_for_credential(self.secret, self.tenant)
        if self.session_key:
            return authentication.actor_for_user(authentication.user_of_session(self.session_key), self.tenant)
        if actor := authentication.anonymous_actor():
            return actor
        raise Unauthenticated


def standing(credentials: list[Credential]) -> dict[Credential, Actor | None]:
    """Who stands behind each now; None where the right has ended."""
    return {credential: _reader_or_none(credential) for credential in credentials}


def _reader_or_none(credential: Credential) -> Actor | None:
    try:
        return credential.reader()
    except PlatformError:
        return None


def headers_of(scope) -> Mapping[str, str]:
    return CaseInsensitiveMapping({name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]})


def from_handshake(headers: Mapping[str, str]) -> Credential | None:
    """None if nothing came with the handshake: it may be in the first message. Raises Unauthenticated."""
    tenant = headers.get(authentication.TENANT_HEADER)
    if secret := authentication.credential_in(headers):
        return Credential(secret=secret, tenant=tenant)
    session_key = parse_cookie(headers.get("Cookie", "")).get(settings.SESSION_COOKIE_NAME)
    if session_key and is_own_origin(headers):
        return Credential(session_key=session_key, tenant=tenant)
    return Credential() if settings.ANONYMOUS_TENANT else None


def origin_allowed(headers: Mapping[str, str]) -> bool:
    """Browsers always say where a page comes from; programs need not."""
    return "Origin" not in headers or is_own_origin(headers) or headers["Origin"] in settings.CORS_ORIGINS


def is_own_origin(headers: Mapping[str, str]) -> bool:
    """Exactly the address that the page was asked from: a cookie also comes along from pages of others."""
    host = headers.get("Host", "")
    own = {settings.BASE_URL}
    if validate_host(split_domain_port(host)[0], settings.ALLOWED_HOSTS):
        own |= {f"http://{host}", f"https://{host}"}
    return headers.get("Origin") in own
