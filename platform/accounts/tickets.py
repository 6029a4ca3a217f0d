"""Tickets for browsers, whose EventSource and WebSocket cannot send headers: valid once, for 30 seconds.

Valkey stores a ticket's digest and identity, never the ticket or a credential.
"""

import hashlib
import json
import secrets
from dataclasses import asdict

from django.utils.translation import gettext as _
from rest_framework.authentication import BaseAuthentication

from accounts.credential_identity import CredentialIdentity
from core import broker
from core.errors import InvalidRequest, ServiceUnavailable, Unauthenticated

TICKET_LIFETIME = 30
PARAMETER = "ticket"
MAX_TICKET_LENGTH = 100


def issue_ticket(principal: CredentialIdentity) -> str:
    """Raises ServiceUnavailable if Valkey is unreachable."""
    if principal.session_key:  # it would be stored in Valkey, and the browser sends its cookie anyway
        raise InvalidRequest(_("A console log-in needs no ticket: the browser sends its cookie."))
    ticket = secrets.token_urlsafe(32)
    try:
        broker.client().set(_storage_key(ticket), json.dumps(asdict(principal)), ex=TICKET_LIFETIME)
    except broker.UNAVAILABLE:
        raise _unavailable() from None
    return ticket


def redeem_ticket(ticket: str) -> CredentialIdentity:
    """Of two callers with the same ticket only one succeeds. Raises Unauthenticated, ServiceUnavailable."""
    if len(ticket) > MAX_TICKET_LENGTH:
        raise Unauthenticated
    try:
        identity = broker.client().getdel(_storage_key(ticket))
    except broker.UNAVAILABLE:
        raise _unavailable() from None
    if identity is None:
        raise Unauthenticated(_("The ticket was used already or is older than %d seconds.") % TICKET_LIFETIME)
    return CredentialIdentity(**json.loads(identity))


class TicketAuthentication(BaseAuthentication):
    """For views that stream: `?ticket=…`."""

    query_parameter = PARAMETER

    def authenticate(self, request):
        ticket = request.query_params.get(PARAMETER)
        if not ticket:
            return None
        principal = redeem_ticket(ticket)
        request._request.ticket_principal = principal
        actor = principal.reading_actor()
        return actor.user or actor, actor

    def authenticate_header(self, request):
        return 'Bearer realm="serai"'


def _storage_key(ticket: str) -> str:
    return f"serai:ticket:{hashlib.sha256(ticket.encode('utf-8', 'surrogatepass')).hexdigest()}"


def _unavailable() -> ServiceUnavailable:
    return ServiceUnavailable(_("Tickets cannot be kept at the moment. Try again shortly."), retry_after=5)
