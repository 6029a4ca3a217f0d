"""For whom a credential stands, without the credential: what a long stream or a ticket is bound to."""

import time
from dataclasses import dataclass

from accounts import authentication, tokens
from accounts.actor import Actor
from accounts.policy import Permission
from core.errors import Forbidden, Unauthenticated


@dataclass(frozen=True)
class Principal:
    """One of `key_id`, `login_id` and `session_key`; none of them is the anonymous tenant.

    `login_id` is a log-in over the API, whose token is good until `expires_at` (epoch seconds); `session_key` one to
    the console. `tenant` is the tenant that the caller named.
    """

    key_id: str | None = None
    login_id: str | None = None
    expires_at: float | None = None
    session_key: str | None = None
    tenant: str | None = None

    def reader(self) -> Actor:
        """Who stands behind it now and may read. Raises Unauthenticated, Forbidden, or NotFound for the tenant."""
        actor = self._actor()
        if not actor.may(Permission.READ) or not (actor.tenant or actor.sees_all):
            raise Forbidden
        return actor

    def _actor(self) -> Actor:
        if self.expires_at is not None and self.expires_at <= time.time():
            raise Unauthenticated
        if self.key_id:
            return authentication.actor_for_key_id(self.key_id)
        if self.login_id:
            return authentication.actor_for_user(tokens.user_of_session(self.login_id), self.tenant)
        if self.session_key:
            return authentication.actor_for_user(authentication.user_of_session(self.session_key), self.tenant)
        if actor := authentication.anonymous_actor():
            return actor
        raise Unauthenticated


def for_credential(secret: str, tenant: str | None = None) -> Principal:
    """For whom a key or an access token stands; asks the database. Raises Unauthenticated, NotFound."""
    actor = authentication.actor_for_credential(secret, tenant)
    if actor.key:
        return Principal(key_id=actor.key.pk)
    claims = tokens.verify(secret)
    return Principal(login_id=claims.session_id, expires_at=claims.expires_at, tenant=tenant)


def of(request) -> Principal:
    """For whom an authenticated request stands."""
    if by_ticket := getattr(request, "ticket_principal", None):
        return by_ticket
    tenant = request.headers.get(authentication.TENANT_HEADER)
    if secret := authentication.credential_in(request.headers):
        return for_credential(secret, tenant)
    if request.auth.user:
        return Principal(session_key=request.session.session_key, tenant=tenant)
    return Principal()
