"""Credentials of a REST request (JWT, API key or console session) and the tenant that the caller acts for."""

from datetime import timedelta

from django.conf import settings
from django.contrib.auth import get_user
from django.contrib.sessions.backends.db import SessionStore
from django.db.models import Q
from django.http import HttpRequest
from django.utils import timezone
from django.utils.translation import gettext as _
from rest_framework.authentication import BaseAuthentication, SessionAuthentication

from accounts import keys, tokens
from accounts.actor import Actor
from accounts.models import ApiKey, Membership, Role, Tenant, User
from core.errors import NotFound, Unauthenticated

TENANT_HEADER = "Serai-Tenant"
MAX_CREDENTIAL_LENGTH = 4096
_LAST_USED_INTERVAL = timedelta(minutes=1)


def actor_for_credential(credential: str, wanted_tenant: str | None = None) -> Actor:
    """The actor behind an API key or an access token. Raises Unauthenticated, or NotFound for a foreign tenant."""
    if len(credential) > MAX_CREDENTIAL_LENGTH or not credential.isascii():
        raise Unauthenticated
    if credential.startswith(keys.PREFIX):
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
    if wanted_tenant:
        tenant = Tenant.objects.filter(Q(slug=wanted_tenant) | Q(pk=wanted_tenant), is_active=True).first()
        role = _role_in(user, tenant)
        if tenant is None or (role is None and not user.is_operator):
            raise NotFound(_("There is no such tenant, or you do not belong to it."))
        return Actor(tenant=tenant, role=role, user=user, is_operator=user.is_operator)
    tenant = _default_tenant(user)
    return Actor(tenant, _role_in(user, tenant), user, is_operator=user.is_operator, sees_all=user.is_operator)


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


def _default_tenant(user: User) -> Tenant | None:
    memberships = Membership.objects.filter(user=user, tenant__is_active=True).select_related("tenant").order_by("pk")
    tenants = [membership.tenant for membership in memberships]
    if user.default_tenant and (user.default_tenant in tenants or user.is_operator) and user.default_tenant.is_active:
        return user.default_tenant
    return tenants[0] if tenants else None


def _role_in(user: User, tenant: Tenant | None) -> Role | None:
    membership = Membership.objects.filter(user=user, tenant=tenant).first() if tenant else None
    return Role(membership.role) if membership else None


def credential_in(headers) -> str | None:
    """The bearer token or key of a request, None if it has none. Raises Unauthenticated for another scheme."""
    authorization = headers.get("Authorization")
    if authorization is None:
        return headers.get("X-API-Key") or None
    scheme, _space, credential = authorization.partition(" ")
    if scheme.lower() != "bearer" or not credential.strip():
        raise Unauthenticated
    return credential.strip()


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
