"""Who may do what: the one table of roles and scopes. Routes name a permission; a test walks them all."""

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

# A key has what its scopes and its role both allow: nobody's key manages a tenant or operates the platform.
SCOPES: dict[str, frozenset[Permission]] = {
    Scope.READ: frozenset({P.READ, P.LIST_MODELS}),
    Scope.INFERENCE: frozenset({P.INFER, P.LIST_MODELS}),
    Scope.TRAINING: frozenset({P.TRAIN, P.RUN_MODELS}),
    Scope.MODELS: frozenset({P.RUN_MODELS, P.MANAGE_MODELS}),
    Scope.MONITORING: frozenset({P.MANAGE_MONITORING}),
}


def role_may(role: str | None, permission: Permission) -> bool:
    return permission in ROLES.get(role, frozenset())


def key_may(role: str, scopes: list[str], permission: Permission) -> bool:
    return role_may(role, permission) and any(permission in SCOPES.get(scope, frozenset()) for scope in scopes)
