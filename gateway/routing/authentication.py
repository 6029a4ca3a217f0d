"""The caller of a request, as pure functions over a snapshot: by key, by token, or the anonymous tenant's member."""

import time
from collections.abc import Callable, Mapping

from django.utils.translation import gettext_lazy as _

from accounts import caller_rules, keys
from accounts.policy import Permission
from accounts.tokens import Claims
from core import errors
from gateway.routing.snapshot import Caller, RoutingSnapshot, UserEntry

MAX_CACHED_TOKENS = 4096

VerifyToken = Callable[[str], Claims]


class TokenVerifier:
    """Caches verified tokens until they expire: verifying one costs more than handling a request."""

    def __init__(self, verify: VerifyToken) -> None:
        self._verify = verify
        self._claims: dict[str, Claims] = {}

    def __call__(self, token: str) -> Claims:
        claims = self._claims.get(token)
        if claims is None or claims.expires_at <= time.time():
            claims = self._verify(token)
            if len(self._claims) >= MAX_CACHED_TOKENS:
                self._claims.clear()
            self._claims[token] = claims
        return claims


def credential(headers: Mapping[bytes, bytes]) -> str | None:
    """The API key or token of a request, None without one. Raises Unauthenticated for a malformed one."""
    authorization, api_key = headers.get(b"authorization"), headers.get(b"x-api-key")
    return caller_rules.choose_credential(
        None if authorization is None else authorization.decode("latin-1"),
        None if api_key is None else api_key.decode("latin-1"),
    )


def authenticate(
    headers: Mapping[bytes, bytes],
    snapshot: RoutingSnapshot,
    now: float,
    *,
    pepper: bytes,
    verify: VerifyToken,
    anonymous: str = "",
) -> Caller:
    """The caller, by key, by token or (where the operator allows it) without a credential. Raises Unauthenticated.

    `now` is in epoch seconds; `verify` returns a valid token's claims or raises Unauthenticated; `anonymous` is
    the slug of the tenant for callers without a credential.
    """
    secret = credential(headers)
    if secret is None:
        return _anonymous_caller(snapshot, anonymous)
    if not keys.is_key(secret):
        return _caller_of_token(verify(secret), headers.get(b"serai-tenant"), snapshot)
    entry = snapshot.keys.get(keys.digest(secret, pepper))
    if entry is None or (entry.expires_at is not None and entry.expires_at <= now):
        raise errors.Unauthenticated()
    return entry.caller


def _anonymous_caller(snapshot: RoutingSnapshot, slug: str) -> Caller:
    tenant = snapshot.slugs.get(slug) if slug else None
    if tenant is None:
        raise errors.Unauthenticated()
    return Caller(tenant.id, "member")


def _caller_of_token(claims: Claims, tenant_header: bytes | None, snapshot: RoutingSnapshot) -> Caller:
    user = snapshot.users.get(claims.user_id)
    if user is None or claims.session_id in snapshot.revoked_sessions:
        raise errors.Unauthenticated()
    tenant_id = _tenant_from_header(user, tenant_header, snapshot) if tenant_header else _default_tenant(user, snapshot)
    return Caller(
        tenant_id, user.roles.get(tenant_id), user_id=user.id,
        operator=user.operator, sees_all=user.operator and not tenant_header,
    )  # fmt: skip


def _tenant_from_header(user: UserEntry, tenant_header: bytes, snapshot: RoutingSnapshot) -> str:
    """The tenant of the header Serai-Tenant, by slug or id; NotFound for others than members and operators."""
    name = tenant_header.decode("latin-1")
    tenant = snapshot.slugs.get(name) or snapshot.tenants.get(name)
    if tenant is None or not caller_rules.may_act_for(tenant.id, user.roles, operator=user.operator):
        raise caller_rules.tenant_not_found()
    return tenant.id


def _default_tenant(user: UserEntry, snapshot: RoutingSnapshot) -> str:
    default = user.default_tenant_id if user.default_tenant_id in snapshot.tenants else None
    memberships = [tenant_id for tenant_id in user.roles if tenant_id in snapshot.tenants]
    tenant_id = caller_rules.default_tenant(default, memberships, operator=user.operator)
    if tenant_id is None:
        raise errors.Forbidden(_("You belong to no tenant: name one in the header Serai-Tenant."))
    return tenant_id


def require_permission(caller: Caller, permission: Permission) -> None:
    if not caller.may(permission):
        raise errors.Forbidden()
