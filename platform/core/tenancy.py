"""Rows that belong to one tenant, and the query for those that a caller may see (core/tenant_views.py applies it)."""

from typing import Protocol, Self, TypeVar, runtime_checkable

from django.db import models

Row = TypeVar("Row", bound=models.Model, covariant=True)


@runtime_checkable
class TenantViewer(Protocol):
    """The caller of a query: an actor of the accounts app, which stands above this one."""

    @property
    def tenant(self) -> models.Model | None: ...

    @property
    def sees_all(self) -> bool: ...


class TenantQuerySet(models.QuerySet[Row]):
    def of(self, tenant: models.Model | None) -> Self:
        return self.filter(tenant=tenant)

    def visible_to(self, viewer: TenantViewer) -> Self:
        """An operator without an acting tenant sees all tenants; all other callers see the acting one."""
        if viewer.sees_all:
            return self
        return self.filter(tenant=viewer.tenant)


class TenantModel(models.Model):
    """A row that belongs to exactly one tenant."""

    tenant = models.ForeignKey("accounts.Tenant", on_delete=models.CASCADE, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    objects = TenantQuerySet.as_manager()

    class Meta:
        abstract = True
