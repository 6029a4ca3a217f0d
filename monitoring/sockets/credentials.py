"""The credential of a socket: ticket, header, console login with our own Origin, or the first message."""

from collections.abc import Mapping

from django.conf import settings
from django.http import QueryDict, parse_cookie
from django.http.request import split_domain_port, validate_host
from django.utils.datastructures import CaseInsensitiveMapping

from accounts import authentication, credential_identity, tickets
from accounts.actor import Actor
from accounts.credential_identity import CredentialIdentity
from core.errors import PlatformError
from models_app import services as catalogue


def current_rights(
    followed: Mapping[CredentialIdentity, set[str]],
) -> dict[CredentialIdentity, tuple[Actor | None, set[str]]]:
    """The current actor of each credential, None if it ended, and the models whose logs the actor may still read."""
    rights = {}
    for principal, model_ids in followed.items():
        actor = _reader_or_none(principal)
        rights[principal] = actor, catalogue.own_ids(actor, model_ids) if actor and model_ids else set()
    return rights


def _reader_or_none(principal: CredentialIdentity) -> Actor | None:
    try:
        return principal.reading_actor()
    except PlatformError:
        return None


def headers_of(scope) -> Mapping[str, str]:
    return CaseInsensitiveMapping({name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]})


def from_handshake(scope) -> CredentialIdentity | None:
    """None if the handshake has no credential: it may be in the first message.

    Raises Unauthenticated, or ServiceUnavailable if tickets cannot be looked up.
    """
    headers = headers_of(scope)
    tenant = headers.get(authentication.TENANT_HEADER)
    if ticket := QueryDict(scope["query_string"]).get(tickets.PARAMETER):
        return tickets.redeem_ticket(ticket)
    if secret := authentication.credential_in(headers):
        return credential_identity.identity_for_credential(secret, tenant)
    session_key = parse_cookie(headers.get("Cookie", "")).get(settings.SESSION_COOKIE_NAME)
    if session_key and is_own_origin(headers):
        return CredentialIdentity(session_key=session_key, tenant=tenant)
    return CredentialIdentity() if settings.ANONYMOUS_TENANT else None


def origin_allowed(headers: Mapping[str, str]) -> bool:
    """Browsers always send the Origin of a page; programs need not send one."""
    return "Origin" not in headers or is_own_origin(headers) or headers["Origin"] in settings.CORS_ORIGINS


def is_own_origin(headers: Mapping[str, str]) -> bool:
    """Exactly the address that serves our pages: browsers send cookies with requests from foreign pages too."""
    host = headers.get("Host", "")
    own = {settings.BASE_URL}
    if validate_host(split_domain_port(host)[0], settings.ALLOWED_HOSTS):
        own |= {f"http://{host}", f"https://{host}"}
    return headers.get("Origin") in own
