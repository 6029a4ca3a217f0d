"""Passwords: changed by their owner, or chosen anew by a one-time link that somebody with the right to it made."""

from axes.utils import reset
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from accounts import audit, services
from accounts.actor import Actor
from accounts.models import ROLE_RANK, LinkPurpose, LoginSession, Membership, OneTimeLink, Role, Tenant, User
from core.errors import Conflict, InvalidRequest, NotFound


def require_good(password: str, user: User, *, field: str) -> None:
    """Django's validators. Raises InvalidRequest that names the field."""
    try:
        validate_password(password, user)
    except ValidationError as refusal:
        raise InvalidRequest(details={field: " ".join(refusal.messages)}) from None


@transaction.atomic
def change(user: User, password: str, *, kept_login: str | None = None) -> None:
    """The database ends every log-in of the old password; `kept_login`, the caller's own, goes on."""
    logins = LoginSession.objects.select_for_update().filter(user=user, revoked_at=None)
    kept = logins.filter(pk=kept_login).first() if kept_login else None
    user.set_password(password)
    user.save(update_fields=["password"])
    if kept:
        LoginSession.objects.filter(pk=kept.pk).update(revoked_at=None)


@transaction.atomic
def reset_link(actor: Actor, membership: Membership) -> str:
    """The token of a link by which this member chooses a new password. It replaces an older one. Raises NotFound.

    An operator may make one for everybody, an admin only for an account that is not more than a member of his tenant.
    """
    user = membership.user
    if user == actor.user:
        raise Conflict(_("Change your own password with POST /api/me/password."))
    only_in = None if actor.is_operator else membership.tenant
    if only_in and not _is_only_in(user, only_in, most=actor.role):
        raise NotFound
    OneTimeLink.objects.filter(user=user, purpose=LinkPurpose.RESET).delete()
    return services.one_time_link(user, LinkPurpose.RESET, only_in)


def find_reset(token: str) -> OneTimeLink | None:
    """A reset link that is still good: not used, not too old, and the account not more than it was."""
    link = (
        OneTimeLink.objects.select_related("user", "only_in")
        .filter(
            digest=services.link_digest(token),
            purpose=LinkPurpose.RESET,
            expires_at__gt=timezone.now(),
            user__is_active=True,
        )
        .first()
    )
    if link is None or (link.only_in and not _is_only_in(link.user, link.only_in)):
        return None
    return link


@transaction.atomic
def redeem_reset(token: str, password: str) -> User:
    """Sets the password, which ends the old one's log-ins. Raises NotFound, InvalidRequest (the link stays good)."""
    link = find_reset(token)
    if link is None or not OneTimeLink.objects.select_for_update().filter(pk=link.pk).first():
        raise NotFound
    require_good(password, link.user, field="password")
    change(link.user, password)
    link.delete()
    reset(username=link.user.username)  # the pause after too many failed log-ins
    actor = Actor(tenant=link.only_in, role=None, user=link.user)
    audit.record(actor, "account.password", link.user, by="reset link")
    return link.user


def _is_only_in(user: User, tenant: Tenant, most: str | None = None) -> bool:
    """Whether the account belongs to this tenant alone, is no operator's, and has at most the role `most` there."""
    memberships = list(Membership.objects.filter(user=user))
    if user.is_staff or len(memberships) != 1 or memberships[0].tenant_id != tenant.pk:
        return False
    return most is None or ROLE_RANK[Role(memberships[0].role)] <= ROLE_RANK[Role(most)]
