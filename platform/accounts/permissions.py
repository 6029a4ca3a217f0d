"""The policy as a DRF permission: a view says which permission each of its actions needs, or nobody gets in."""

from rest_framework.permissions import BasePermission

from accounts.policy import Permission
from core.errors import Unauthenticated


def needed(view, request_method: str) -> Permission | None:
    """What the view declares for its action (viewsets) or method (plain views)."""
    declared = getattr(view, "permissions", {})
    return declared.get(getattr(view, "action", None)) or declared.get(request_method)


class PolicyPermission(BasePermission):
    def has_permission(self, request, view):
        permission = needed(view, request.method)
        if permission == Permission.PUBLIC:
            return True
        if request.auth is None:
            raise Unauthenticated
        if permission is None:
            return request.method == "OPTIONS" or self._is_unknown_method(view, request)
        return request.auth.may(permission)

    def _is_unknown_method(self, view, request) -> bool:
        """A method that no action handles goes on to its 405."""
        return not hasattr(view, request.method.lower())
