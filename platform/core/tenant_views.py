"""The one place where views are limited to the rows that their caller may see."""

from typing import Any

from rest_framework.generics import GenericAPIView

from core.errors import Unauthenticated
from core.tenancy import TenantQuerySet, TenantViewer


class TenantScopedMixin(GenericAPIView[Any]):
    """Limits any generic view to what the request's actor may see: other tenants' rows answer 404."""

    def get_queryset(self) -> TenantQuerySet[Any]:
        queryset = super().get_queryset()
        assert isinstance(queryset, TenantQuerySet)
        if getattr(self, "swagger_fake_view", False):
            return queryset.none()
        if not isinstance(self.request.auth, TenantViewer):
            raise Unauthenticated
        return queryset.visible_to(self.request.auth)
