"""The operators of the platform: the last one stays, nobody removes himself, and a command lets the locked-out in."""

import secrets
from collections.abc import Iterable

from axes.utils import reset
from django.contrib.auth.models import AnonymousUser
from django.db import transaction
from django.db.models import QuerySet
from django.utils.translation import gettext as _

from accounts import audit
from accounts.actor import Actor
from accounts.models import User
from core.errors import Conflict

COMMAND_LINE = Actor(tenant=None, role=None, is_operator=True)


def active() -> QuerySet[User]:
    return User.objects.filter(is_staff=True, is_active=True).order_by("date_joined")


def require_removable(users: Iterable[User], *, by: User | AnonymousUser) -> None:
    """To be called in the transaction that deletes, demotes or disables `users`. Raises Conflict.

    It locks all operators, so that two who remove each other at the same time leave one.
    """
    removed = {user.pk for user in users}
    if by.pk in removed:
        raise Conflict(_("You cannot delete, demote or disable yourself. Another operator can."))
    remaining = set(active().select_for_update().values_list("pk", flat=True))
    if remaining and remaining <= removed:
        raise Conflict(_("The last operator cannot be deleted, demoted or disabled. Make another one first."))


def new_password() -> str:
    return secrets.token_urlsafe(12)


@transaction.atomic
def create(username: str, password: str) -> User:
    operator = User.objects.create_superuser(username, password=password)
    audit.record(COMMAND_LINE, "operator.add", operator, username=username)
    return operator


@transaction.atomic
def promote(account: User) -> None:
    """Make an account an operator that can log in. Its password stays."""
    account.is_staff = account.is_active = True
    account.save(update_fields=["is_staff", "is_active"])
    audit.record(COMMAND_LINE, "operator.add", account, username=account.username)


@transaction.atomic
def set_password(operator: User, password: str) -> None:
    """Also ends the pause after too many failed log-ins; the database ends the sessions of the old password."""
    operator.set_password(password)
    operator.save(update_fields=["password"])
    reset(username=operator.username)
    audit.record(COMMAND_LINE, "operator.password", operator, username=operator.username)
