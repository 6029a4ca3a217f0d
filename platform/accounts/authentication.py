"""Credentials of a REST request (JWT, API key or console session) and the tenant that the caller acts for."""

from collections.abc import Mapping
from datetime import timedelta

from django.conf import settings
from django.contrib.auth import get_user
from django.contrib.sessions.backends.db import SessionStore
from django.http import HttpRequest
from django.utils import timezone
from rest_framework.authentication import BaseAuthentication, SessionAuthentication

from accounts import caller_rules, keys, tokens
from accounts.actor import Actor
from accounts.models import ApiKey, Membership, Role, Tenant, User
from core.errors import Unauthenticated

TENANT_HEADER = "Serai-Tenant"
_LAST_USED_INTERVAL = timedelta(minutes=1)


def actor_for_credential(credential: str, wanted_tenant: str | None = None) -> Actor:
    """The actor behind an API key or an access token. Raises Unauthenticated, or NotFound for a foreign tenant."""
    credential = caller_rules.check_credential(credential)
    if keys.is_key(credential):
        return actor_for_key(credential)
    return actor_for_user(tokens.user_of_token(credential), wanted_tenant)


def actor_for_key(secret: str) -> Actor:
    return _actor_of_key(digest=keys.digest(secret))


def actor_for_key_id(key_id: str) -> Actor:
    """The actor behind a key that was verified before. Raises Unauthenticated."""
    return _actor_of_key(pk=key_id)


def _actor_of_key(**lookup) -> Actor:
    key = ApiKey.objects.usable().select_related("tenant", "created_by").filter(**lookup).first()
    if key is None:
        raise Unauthenticated
    _update_last_used(key)
    return Actor(tenant=key.tenant, role=key.effective_role, user=key.created_by, key=key)


def _update_last_used(key: ApiKey) -> None:
    """At most once a minute: a write for each request would be too expensive."""
    now = timezone.now()
    if key.last_used_at is None or now - key.last_used_at > _LAST_USED_INTERVAL:
        ApiKey.objects.filter(pk=key.pk).update(last_used_at=now)


def actor_for_user(user: User, wanted_tenant: str | None = None) -> Actor:
    """A person acts for the default or the named tenant. Only operators need no membership there. Raises NotFound."""
    memberships = Membership.objects.filter(user=user, tenant__is_active=True).select_related("tenant").order_by("pk")
    roles = {membership.tenant: Role(membership.role) for membership in memberships}
    tenant = _named_tenant(user, wanted_tenant, roles) if wanted_tenant else _default_tenant(user, roles)
    role = roles.get(tenant) if tenant else None
    sees_all = user.is_operator and not wanted_tenant
    return Actor(tenant, role, user, is_operator=user.is_operator, sees_all=sees_all)


def user_of_session(session_key: str) -> User:
    """The active user of a console session that is still valid. Raises Unauthenticated."""
    request = HttpRequest()
    request.session = SessionStore(session_key)
    user = get_user(request)
    if not user.is_authenticated:
        raise Unauthenticated
    return user


def anonymous_actor() -> Actor | None:
    """A member of the tenant that is open to anonymous callers, if the operator set one."""
    if not settings.ANONYMOUS_TENANT:
        return None
    tenant = Tenant.objects.filter(slug=settings.ANONYMOUS_TENANT, is_active=True).first()
    return Actor(tenant=tenant, role=Role.MEMBER) if tenant else None


def _named_tenant(user: User, name: str, roles: Mapping[Tenant, Role]) -> Tenant:
    """The tenant of this slug or id."""
    active = Tenant.objects.filter(is_active=True)
    tenant = active.filter(slug=name).first() or active.filter(pk=name).first()
    memberships = [member.pk for member in roles]
    if tenant is None or not caller_rules.may_act_for(tenant.pk, memberships, operator=user.is_operator):
        raise caller_rules.tenant_not_found()
    return tenant


def _default_tenant(user: User, roles: Mapping[Tenant, Role]) -> Tenant | None:
    active = {tenant.pk: tenant for tenant in roles}
    memberships, default_id = list(active), None
    if user.default_tenant and user.default_tenant.is_active:
        default_id = user.default_tenant.pk
        active[default_id] = user.default_tenant
    chosen = caller_rules.default_tenant(default_id, memberships, operator=user.is_operator)
    return active[chosen] if chosen else None


def credential_in(headers: Mapping[str, str]) -> str | None:
    """The bearer token or key of a request, None if it has none. Raises Unauthenticated for a malformed one."""
    return caller_rules.choose_credential(headers.get("Authorization"), headers.get("X-API-Key"))


class CredentialAuthentication(BaseAuthentication):
    def authenticate(self, request):
        credential = credential_in(request.headers)
        if credential is None:
            return None
        actor = actor_for_credential(credential, request.headers.get(TENANT_HEADER))
        actor.name_in_logs()
        return actor.user or actor, actor

    def authenticate_header(self, request):
        return 'Bearer realm="serai"'


class ConsoleAuthentication(SessionAuthentication):
    """The console's cookie, with CSRF; without a session, the anonymous tenant if there is one."""

    def authenticate(self, request):
        authenticated = super().authenticate(request)
        if authenticated is None:
            actor = anonymous_actor()
            return (actor, actor) if actor else None
        actor = actor_for_user(authenticated[0], request.headers.get(TENANT_HEADER))
        actor.name_in_logs()
        return authenticated[0], actor

    def authenticate_header(self, request):
        return 'Bearer realm="serai"'
