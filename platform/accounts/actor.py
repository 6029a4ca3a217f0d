"""The caller of a request: a person or a key, acting for one tenant with a role."""

from dataclasses import dataclass

from rest_framework.request import Request

from accounts import policy
from accounts.models import ApiKey, Role, Tenant, User
from accounts.policy import Permission
from core import logs
from core.errors import Unauthenticated


@dataclass(frozen=True)
class Actor:
    """`tenant` is the acting tenant; an operator who named none sees all tenants and writes to `tenant`.

    `user` is the person or the maker of the key; None for the anonymous tenant and for an operator's command.
    """

    tenant: Tenant | None
    role: Role | None
    user: User | None = None
    key: ApiKey | None = None
    is_operator: bool = False
    sees_all: bool = False

    def may(self, permission: Permission) -> bool:
        if self.key:
            made_by_operator = self.user is not None and self.user.is_operator
            return policy.key_may(self.role, self.key.scopes, permission, made_by_operator=made_by_operator)
        return self.is_operator or policy.role_may(self.role, permission)

    def name_in_logs(self) -> None:
        """Add the tenant to the log lines of this request."""
        if self.tenant:
            logs.bind(tenant=self.tenant.pk)

    @property
    def label(self) -> str:
        """The actor's name in audit records."""
        if self.key:
            return f"key {self.key.prefix}… ({self.key.name})"
        if self.user:
            return self.user.get_username()
        return "command line" if self.is_operator else "anonymous"


def actor_of(request: Request) -> Actor:
    """The caller that authentication has found. Raises Unauthenticated if there is none."""
    if not isinstance(request.auth, Actor):
        raise Unauthenticated
    return request.auth
