"""The policy as a DRF permission: a view declares a permission for each action; an undeclared action is forbidden."""

from django.utils.translation import gettext as _
from rest_framework.permissions import BasePermission

from accounts.policy import Permission
from core.errors import InvalidRequest, Unauthenticated


def required_permission(view, request_method: str) -> Permission | None:
    """What the view declares for its action (viewsets) or method (plain views)."""
    declared = getattr(view, "permissions", {})
    method = "GET" if request_method == "HEAD" else request_method
    return declared.get(getattr(view, "action", None)) or declared.get(method)


class PolicyPermission(BasePermission):
    def has_permission(self, request, view):
        permission = required_permission(view, request.method)
        if permission == Permission.PUBLIC:
            return True
        if request.auth is None:
            raise Unauthenticated
        if permission is None:
            return request.method == "OPTIONS" or self._is_unknown_method(view, request)
        self._require_tenant(request, view, permission)
        return request.auth.may(permission)

    def _require_tenant(self, request, view, permission: Permission) -> None:
        """A new object needs a tenant, and an operator may have none. Raises InvalidRequest."""
        actor = request.auth
        creates = request.method == "POST" and not view.kwargs and permission != Permission.OPERATE
        if creates and not getattr(view, "for_all_tenants", False) and actor.is_operator and actor.tenant is None:
            raise InvalidRequest(_("Name a tenant: header Serai-Tenant."), param="Serai-Tenant")

    def _is_unknown_method(self, view, request) -> bool:
        """A method that no action handles must reach the view, which answers 405."""
        return not hasattr(view, request.method.lower())
