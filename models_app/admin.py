"""Operators' page of adapters: versions with their evaluation; services publish and unpublish them."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from django.contrib import admin, messages
from django.utils.translation import gettext_lazy as _
from unfold.admin import TabularInline
from unfold.decorators import action, display

from accounts.authentication import actor_for_user
from accounts.console import ReadOnlyAdmin
from core.errors import PlatformError
from models_app.adapters import services
from models_app.models import Adapter, AdapterVersion

if TYPE_CHECKING:
    from django_stubs_ext import StrOrPromise


class VersionInline(TabularInline):
    model = AdapterVersion
    fk_name = "adapter"
    extra = 0
    can_delete = False
    fields = readonly_fields = [
        "number", "rank", "show_loss", "dataset_name", "dataset_version", "job_id", "published_at", "created_at",
    ]  # fmt: skip

    def has_add_permission(self, request, obj=None):
        return False

    @display(description=_("Loss before and after"))
    def show_loss(self, version):
        evaluation = version.evaluation or {}
        sides = [(evaluation.get(side) or {}).get("loss") for side in ("before", "after")]
        return " → ".join("–" if loss is None else f"{loss:.3f}" for loss in sides)


@admin.register(Adapter)
class AdapterAdmin(ReadOnlyAdmin):
    list_display = ["name", "tenant", "base_model", "show_version", "created_by", "created_at"]
    list_filter = ["tenant", "base_model"]
    search_fields = ["name", "id", "base_model__name"]
    list_select_related = ["tenant", "base_model", "current", "created_by"]
    actions = ["publish_newest", "unpublish"]
    inlines = [VersionInline]

    @display(description=_("Version in use"))
    def show_version(self, adapter):
        return adapter.current.number if adapter.current else "–"

    @action(description=_("Publish the newest version"))
    def publish_newest(self, request, queryset):
        self._apply_to_all(request, queryset, services.publish, _("%s is published."))

    @action(description=_("Unpublish"))
    def unpublish(self, request, queryset):
        self._apply_to_all(request, queryset, services.unpublish, _("%s is not published any more."))

    def _apply_to_all(self, request, adapters, operation: Callable, done: "StrOrPromise") -> None:
        """The service writes the audit record."""
        actor = actor_for_user(request.user)
        for adapter in adapters:
            try:
                operation(actor, adapter, request=request)
                self.message_user(request, done % adapter.name, messages.SUCCESS)
            except PlatformError as error:
                self.message_user(request, f"{adapter.name}: {error.message}", messages.ERROR)
