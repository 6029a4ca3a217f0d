"""The one table of what roles and scopes permit. Each route names a permission; a test checks all routes."""

from collections.abc import Collection
from enum import StrEnum

from accounts.models import Role, Scope


class Permission(StrEnum):
    PUBLIC = "public"
    READ = "read"
    INFER = "infer"
    LIST_MODELS = "list models"  # on the data plane: `read` or `inference`
    RUN_MODELS = "run models"  # start, stop, restart, clear logs
    TRAIN = "train"
    MANAGE_MODELS = "manage models"
    MANAGE_MONITORING = "manage monitoring"
    MANAGE_TENANT = "manage tenant"  # members, keys, limits, the tenant's own audit
    SCRAPE = "scrape"  # all metrics, in Prometheus format
    OPERATE = "operate"


P = Permission
_VIEWER = frozenset({P.READ, P.LIST_MODELS})
_MEMBER = _VIEWER | {P.INFER, P.RUN_MODELS, P.TRAIN}
_ADMIN = _MEMBER | {P.MANAGE_MODELS, P.MANAGE_MONITORING, P.MANAGE_TENANT}

ROLES: dict[str, frozenset[Permission]] = {
    Role.VIEWER: _VIEWER,
    Role.MEMBER: _MEMBER,
    Role.ADMIN: _ADMIN,
    Role.OWNER: _ADMIN,
}

# A key may do what both its scopes and its role allow: no key manages a tenant or operates the platform. No role
# allows the permissions below: a scope grants them while the key's maker is an operator.
OPERATORS_KEYS = frozenset({P.SCRAPE})
SCOPES: dict[str, frozenset[Permission]] = {
    Scope.READ: frozenset({P.READ, P.LIST_MODELS}),
    Scope.INFERENCE: frozenset({P.INFER, P.LIST_MODELS}),
    Scope.TRAINING: frozenset({P.TRAIN, P.RUN_MODELS}),
    Scope.MODELS: frozenset({P.RUN_MODELS, P.MANAGE_MODELS}),
    Scope.MONITORING: frozenset({P.MANAGE_MONITORING}),
    Scope.METRICS: OPERATORS_KEYS,
}


def role_may(role: str | None, permission: Permission) -> bool:
    return role is not None and permission in ROLES.get(role, frozenset())


def key_may(
    role: str | None, scopes: Collection[str], permission: Permission, *, made_by_operator: bool = False
) -> bool:
    allowed = role_may(role, permission) or (made_by_operator and permission in OPERATORS_KEYS)
    return allowed and any(permission in SCOPES.get(scope, frozenset()) for scope in scopes)
