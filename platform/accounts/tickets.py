"""Tickets for browsers, whose EventSource and WebSocket can send no header: good once, for half a minute.

Valkey holds a ticket's digest and for whom it stands, never the ticket or a credential.
"""

import hashlib
import json
import secrets
from dataclasses import asdict

from django.utils.translation import gettext as _
from rest_framework.authentication import BaseAuthentication

from accounts.ticket_identity import Principal
from core import broker
from core.errors import InvalidRequest, ServiceUnavailable, Unauthenticated

LIFE_SECONDS = 30
PARAMETER = "ticket"
LONGEST = 100


def issue(principal: Principal) -> str:
    """Raises ServiceUnavailable where Valkey is away."""
    if principal.session_key:  # it would have to lie in Valkey, and its cookie is sent along anyway
        raise InvalidRequest(_("A console log-in needs no ticket: the browser sends its cookie."))
    ticket = secrets.token_urlsafe(32)
    try:
        broker.client().set(_name(ticket), json.dumps(asdict(principal)), ex=LIFE_SECONDS)
    except broker.UNAVAILABLE:
        raise _away() from None
    return ticket


def redeem(ticket: str) -> Principal:
    """Of two who bring the same ticket one gets in. Raises Unauthenticated, ServiceUnavailable."""
    if len(ticket) > LONGEST:
        raise Unauthenticated
    try:
        found = broker.client().getdel(_name(ticket))
    except broker.UNAVAILABLE:
        raise _away() from None
    if found is None:
        raise Unauthenticated(_("The ticket was used already or is older than %d seconds.") % LIFE_SECONDS)
    return Principal(**json.loads(found))


class TicketAuthentication(BaseAuthentication):
    """For views that stream: `?ticket=…`."""

    def authenticate(self, request):
        ticket = request.query_params.get(PARAMETER)
        if not ticket:
            return None
        principal = redeem(ticket)
        request._request.ticket_principal = principal
        actor = principal.reader()
        return actor.user or actor, actor

    def authenticate_header(self, request):
        return 'Bearer realm="serai"'


def _name(ticket: str) -> str:
    return f"serai:ticket:{hashlib.sha256(ticket.encode('utf-8', 'surrogatepass')).hexdigest()}"


def _away() -> ServiceUnavailable:
    return ServiceUnavailable(_("Tickets cannot be kept at the moment. Try again shortly."), retry_after=5)
