"""Operations on tenants, members and keys."""

import hashlib
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta

from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from accounts import keys
from accounts.models import ROLE_RANK, ApiKey, Membership, OneTimeLink, Role, Scope, Tenant, User
from core.errors import Conflict, Forbidden

LINK_LIFETIME = timedelta(hours=12)


def create_tenant(*, slug: str, name: str) -> Tenant:
    return Tenant.objects.create(slug=slug, name=name)


def add_member(tenant: Tenant, user: User, role: str) -> Membership:
    if Membership.objects.filter(tenant=tenant, user=user).exists():
        raise Conflict(_("%(user)s is a member already.") % {"user": user.get_username()})
    return Membership.objects.create(tenant=tenant, user=user, role=role)


@transaction.atomic
def change_role(membership: Membership, role: str) -> None:
    _require_another_owner(membership, role)
    membership.role = role
    membership.save(update_fields=["role", "updated_at"])


@transaction.atomic
def remove_member(membership: Membership) -> None:
    """Also revoke the person's keys in the tenant: they depend on the membership."""
    _require_another_owner(membership, None)
    ApiKey.objects.of(membership.tenant).filter(created_by=membership.user, revoked_at=None).update(
        revoked_at=timezone.now()
    )
    membership.delete()


def _require_another_owner(membership: Membership, role: str | None) -> None:
    if membership.role != Role.OWNER or role == Role.OWNER:
        return
    Tenant.objects.select_for_update().get(pk=membership.tenant_id)
    others = Membership.objects.of(membership.tenant).filter(role=Role.OWNER).exclude(pk=membership.pk)
    if not others.exists():
        raise Conflict(_("A tenant needs at least one owner."))


def require_rank(own: str | None, other: str, is_operator: bool) -> None:
    """No caller may assign or remove a role above their own. Raises Forbidden."""
    own_rank = ROLE_RANK[Role(own)] if own else -1
    if not is_operator and ROLE_RANK[Role(other)] > own_rank:
        raise Forbidden(_("That role is above your own."))


def issue_key(
    tenant: Tenant,
    *,
    name: str,
    maker: User,
    role: str = Role.MEMBER,
    scopes: Sequence[str] | None = None,
    allowed_models: list[str] | None = None,
    expires_at: datetime | None = None,
) -> tuple[ApiKey, str]:
    """A new key and its secret, which is shown only now and not stored."""
    secret = keys.new_secret()
    key = ApiKey.objects.create(
        tenant=tenant,
        name=name,
        created_by=maker,
        role=role,
        prefix=keys.shown_prefix(secret),
        digest=keys.digest(secret),
        scopes=[Scope.READ, Scope.INFERENCE] if scopes is None else list(scopes),
        allowed_models=allowed_models or [],
        expires_at=expires_at,
    )
    return key, secret


def revoke_key(key: ApiKey) -> None:
    ApiKey.objects.filter(pk=key.pk, revoked_at=None).update(revoked_at=timezone.now())
    key.refresh_from_db()


def one_time_link(user: User) -> str:
    """A token that logs `user` into the console once."""
    token = secrets.token_urlsafe(32)
    OneTimeLink.objects.filter(expires_at__lt=timezone.now()).delete()
    OneTimeLink.objects.create(digest=_link_digest(token), user=user, expires_at=timezone.now() + LINK_LIFETIME)
    return token


def redeem_link(token: str) -> User | None:
    """The user of an unused link, else None. Of two concurrent calls only one succeeds."""
    link = (
        OneTimeLink.objects.select_related("user")
        .filter(digest=_link_digest(token), expires_at__gt=timezone.now())
        .first()
    )
    if link is None or not link.user.is_active:
        return None
    deleted, _per_model = OneTimeLink.objects.filter(pk=link.pk).delete()
    return link.user if deleted else None


def _link_digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
