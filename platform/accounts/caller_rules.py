"""Who acts: which credential of a request counts, and for which tenant a person acts.

These are functions over plain values. REST calls them with rows (accounts/authentication.py), the data plane with its
snapshot (gateway/routing/authentication.py), so both decide alike. tests/gateway/test_one_rule.py holds the cases.
"""

from collections.abc import Collection

from django.utils.translation import gettext_lazy as _

from core.errors import NotFound, Unauthenticated

MAX_CREDENTIAL_LENGTH = 4096


def choose_credential(authorization: str | None, api_key: str | None) -> str | None:
    """The token or key in the headers Authorization and X-API-Key; None without either, Authorization of both.

    Raises Unauthenticated for another scheme than Bearer and for what check_credential refuses.
    """
    if authorization is None:
        return None if api_key is None else check_credential(api_key)
    scheme, _space, credential = authorization.partition(" ")
    if scheme.lower() != "bearer":
        raise Unauthenticated
    return check_credential(credential)


def check_credential(credential: str) -> str:
    """The credential without spaces around it. Raises Unauthenticated for one that cannot be a key or token."""
    credential = credential.strip()
    if not credential or len(credential) > MAX_CREDENTIAL_LENGTH or not credential.isascii():
        raise Unauthenticated
    return credential


def default_tenant(default: str | None, memberships: Collection[str], *, operator: bool) -> str | None:
    """The tenant that a person acts for without naming one: the default one, else that of the oldest membership.

    All are ids of active tenants, `memberships` with the oldest first. None: the person belongs to no tenant.
    """
    if default is not None and may_act_for(default, memberships, operator=operator):
        return default
    return next(iter(memberships), None)


def may_act_for(tenant_id: str, memberships: Collection[str], *, operator: bool) -> bool:
    """Only operators need no membership."""
    return operator or tenant_id in memberships


def tenant_not_found() -> NotFound:
    """The error for a named tenant, whether it is missing or foreign."""
    return NotFound(_("There is no such tenant, or you do not belong to it."))
