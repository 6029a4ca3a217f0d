"""The identity behind a credential, without the credential. Long streams and tickets are bound to it."""

import time
from dataclasses import dataclass

from accounts import authentication, tokens
from accounts.actor import Actor
from accounts.policy import Permission
from core.errors import Forbidden, Unauthenticated


@dataclass(frozen=True)
class CredentialIdentity:
    """One of `key_id`, `login_id` and `session_key` is set; if none is, it is the anonymous tenant.

    `login_id` is a login over the API, with a token valid until `expires_at` (epoch seconds); `session_key` is a
    console login. `tenant` is the tenant that the caller named.
    """

    key_id: str | None = None
    login_id: str | None = None
    expires_at: float | None = None
    session_key: str | None = None
    tenant: str | None = None

    def reading_actor(self) -> Actor:
        """The current actor, if it may read. Raises Unauthenticated, Forbidden, or NotFound for the tenant."""
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


def identity_for_credential(secret: str, tenant: str | None = None) -> CredentialIdentity:
    """The identity of a key or an access token; queries the database. Raises Unauthenticated, NotFound."""
    actor = authentication.actor_for_credential(secret, tenant)
    if actor.key:
        return CredentialIdentity(key_id=actor.key.pk)
    claims = tokens.verify(secret)
    return CredentialIdentity(login_id=claims.session_id, expires_at=claims.expires_at, tenant=tenant)


def identity_of_request(request) -> CredentialIdentity:
    """The identity of an authenticated request."""
    if by_ticket := getattr(request, "ticket_principal", None):
        return by_ticket
    tenant = request.headers.get(authentication.TENANT_HEADER)
    if secret := authentication.credential_in(request.headers):
        return identity_for_credential(secret, tenant)
    if request.auth.user:
        return CredentialIdentity(session_key=request.session.session_key, tenant=tenant)
    return CredentialIdentity()
