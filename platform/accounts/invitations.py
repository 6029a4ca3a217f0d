"""Invitations: an admin makes a link, and whoever is meant by it joins the tenant, with a new account or his own."""

from datetime import timedelta

from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from accounts import audit, passwords, policy, services
from accounts.actor import Actor
from accounts.models import ROLE_RANK, Invitation, Membership, Role, Tenant, User
from accounts.policy import Permission
from core.errors import Conflict, InvalidRequest, NotFound

LIFETIME = timedelta(days=7)
MAX_OPEN = 100  # of one tenant


@transaction.atomic
def invite(actor: Actor, *, role: str, username: str = "") -> tuple[Invitation, str]:
    """A new invitation and its token, which is stored nowhere. It replaces an older one to the same name.

    It does the same for names with an account and without. Raises Forbidden, Conflict, InvalidRequest.
    """
    tenant = actor.tenant
    assert actor.user and tenant, "the policy lets only persons invite, and asks an operator to name a tenant"
    services.require_rank(actor.role, role, actor.is_operator)
    _require_name(username)
    Tenant.objects.select_for_update(no_key=True).get(pk=tenant.pk)
    if Membership.objects.of(tenant).filter(user__username=username).exists():
        raise Conflict(_("%(user)s is a member already.") % {"user": username})
    _withdraw_older(actor, tenant, username)
    if Invitation.objects.of(tenant).count() >= MAX_OPEN:
        raise Conflict(_("%d invitations are open, which is the most. Withdraw one first.") % MAX_OPEN)
    token = services.new_link_token()
    invitation = Invitation.objects.create(
        tenant=tenant,
        role=role,
        username=username,
        created_by=actor.user,
        digest=services.link_digest(token),
        expires_at=timezone.now() + LIFETIME,
    )
    return invitation, token


def find_open(token: str) -> Invitation:
    """Raises NotFound, also if the person who invited could not invite any more."""
    invitation = (
        Invitation.objects.open()
        .select_related("tenant", "created_by")
        .filter(digest=services.link_digest(token))
        .first()
    )
    if invitation is None or not _may_still_invite(invitation):
        raise NotFound(_("This invitation was used or withdrawn, or it is too old. Ask for a new one."))
    return invitation


@transaction.atomic
def accept(token: str, user: User) -> Membership:
    """A person with an account joins. Raises NotFound, InvalidRequest, Conflict."""
    invitation = _take(token, user.username)
    if user.default_tenant_id is None:
        user.default_tenant = invitation.tenant
        user.save(update_fields=["default_tenant"])
    return _join(invitation, user)


@transaction.atomic
def accept_with_new_account(token: str, username: str, password: str) -> Membership:
    """Somebody without an account gets one and joins. Raises NotFound, InvalidRequest."""
    invitation = _take(token, username)
    _require_name(username)
    passwords.require_good(password, User(username=username), field="password")
    taken = InvalidRequest(
        details={"username": _("This name is taken. If it is yours, log in and accept with the token alone.")}
    )
    if User.objects.filter(username=username).exists():
        raise taken
    try:
        with transaction.atomic():
            user = User.objects.create_user(username, password=password, default_tenant=invitation.tenant)
    except IntegrityError:  # somebody else took the name at this moment
        raise taken from None
    return _join(invitation, user)


def _take(token: str, username: str) -> Invitation:
    """The invitation, for the rest of the transaction this caller's own. Of two concurrent calls only one succeeds."""
    found = find_open(token)
    if not Invitation.objects.select_for_update().filter(pk=found.pk).first():
        raise NotFound(_("This invitation was used or withdrawn, or it is too old. Ask for a new one."))
    if found.username and found.username != username:
        raise InvalidRequest(details={"username": _("This invitation is for %s.") % found.username})
    return found


def _join(invitation: Invitation, user: User) -> Membership:
    membership = services.add_member(invitation.tenant, user, invitation.role)
    actor = Actor(tenant=invitation.tenant, role=Role(invitation.role), user=user)
    details = {"role": invitation.role, "invited_by": invitation.created_by.username}
    audit.record(actor, "invitation.accept", invitation, username=user.username, **details)
    invitation.delete()
    return membership


def _may_still_invite(invitation: Invitation) -> bool:
    """As for a key: nobody gives by a link more than he may give today."""
    if invitation.created_by.is_operator:
        return True
    maker = Membership.objects.of(invitation.tenant).filter(user=invitation.created_by).first()
    return (
        maker is not None
        and policy.role_may(maker.role, Permission.MANAGE_TENANT)
        and ROLE_RANK[Role(maker.role)] >= ROLE_RANK[Role(invitation.role)]
    )


def _withdraw_older(actor: Actor, tenant: Tenant, username: str) -> None:
    Invitation.objects.of(tenant).filter(expires_at__lte=timezone.now()).delete()
    for older in Invitation.objects.of(tenant).filter(username=username).exclude(username=""):
        services.require_rank(actor.role, older.role, actor.is_operator)
        older.delete()


def _require_name(username: str) -> None:
    try:
        User._meta.get_field("username").run_validators(username)
    except ValidationError as refusal:
        raise InvalidRequest(details={"username": " ".join(refusal.messages)}) from None
