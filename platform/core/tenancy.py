"""Rows that belong to one tenant, and the one place where queries are limited to what an actor may see."""

from django.db import models


class TenantQuerySet(models.QuerySet):
    def of(self, tenant):
        return self.filter(tenant=tenant)

    def visible_to(self, actor):
        """An operator without an acting tenant sees all tenants; all other callers see the acting one."""
        if actor.sees_all:
            return self
        return self.filter(tenant=actor.tenant)


class TenantModel(models.Model):
    """A row that belongs to exactly one tenant."""

    tenant = models.ForeignKey("accounts.Tenant", on_delete=models.CASCADE, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    objects = TenantQuerySet.as_manager()

    class Meta:
        abstract = True


class TenantScopedMixin:
    """Limits any generic view to what the request's actor may see: other tenants' rows answer 404."""

    def get_queryset(self):
        queryset = super().get_queryset()
        if getattr(self, "swagger_fake_view", False):
            return queryset.none()
        return queryset.visible_to(self.request.auth)
