"""Admin pages for models, instances, nodes and tasks. Actions call services."""

from collections.abc import Callable, Iterable

from django.contrib import admin, messages
from django.shortcuts import redirect
from django.utils.functional import Promise
from django.utils.html import format_html
from django.utils.translation import gettext_lazy as _
from unfold.admin import TabularInline
from unfold.decorators import action, display

from accounts.authentication import actor_for_user
from accounts.console import AuditedAdmin, ReadOnlyAdmin
from core.errors import PlatformError
from engines.crash_cause import Cause
from inference.crashes import advice
from inference.instances import status_words
from inference.models import CrashDossier, Device, Instance, Node, Task
from inference.placement import reason_messages
from inference.serving import services
from models_app import model_runtime
from models_app import services as catalogue
from models_app.forms import AliasFormSet, ModelForm
from models_app.models import Model, ModelAlias

RUNNING = _("%s is running. Stop it first.")
STOPPING = _("%s is stopping.")
STATUS_COLOURS = {"running": "success", "starting": "info", "stopping": "warning", "error": "danger"}


class AliasInline(TabularInline):
    model = ModelAlias
    formset = AliasFormSet
    verbose_name, verbose_name_plural = _("alias"), _("Aliases")
    extra = 0
    fields = ["name"]


@admin.register(Model)
class CatalogueAdmin(AuditedAdmin):
    form = ModelForm
    list_display = ["name", "tenant", "framework", "show_status", "show_reason", "visibility", "priority", "pinned"]
    list_filter = ["tenant", "framework", "visibility"]
    search_fields = ["name", "display_name", "aliases__name"]
    readonly_fields = ["id", "show_status", "show_reason", "created_at", "updated_at"]
    exclude = ["created_by"]
    actions = ["start_models", "stop_models", "restart_models"]
    inlines = [AliasInline]
    list_select_related = ["tenant"]

    def get_queryset(self, request):
        return super().get_queryset(request).prefetch_related("instances")

    def get_readonly_fields(self, request, obj=None):
        """The tenant of a model cannot change: its aliases, usage and files belong to it."""
        return [*self.readonly_fields, "tenant"] if obj else self.readonly_fields

    def save_formset(self, request, form, formset, change):
        formset.save(commit=False)  # for Django's change message
        catalogue.set_aliases(form.instance, formset.names)

    def get_deleted_objects(self, objs, request):
        """Rows of ended instances go with the model, without a permission check; a running model is not deleted."""
        protected = [reason for model in objs if (reason := self._deletion_problem(model))]
        aliases = ModelAlias.objects.filter(model__in=objs).count()
        counts = {Model._meta.verbose_name_plural: len(objs), _("Aliases"): aliases}
        return [str(model) for model in objs], counts, set(), protected

    def delete_view(self, request, object_id, extra_context=None):
        """No confirmation page for a model that is running or that something needs."""
        model = self.get_object(request, object_id)
        if model and (problem := self._deletion_problem(model)):
            self.message_user(request, problem, messages.ERROR)
            return redirect("admin:models_app_model_change", object_id)
        return self._show_refusal(request, super().delete_view, request, object_id, extra_context)

    def change_view(self, request, object_id, form_url="", extra_context=None):
        return self._show_refusal(request, super().change_view, request, object_id, form_url, extra_context)

    def changelist_view(self, request, extra_context=None):
        return self._show_refusal(request, super().changelist_view, request, extra_context)

    def _show_refusal(self, request, view, *arguments):
        """Show a service's refusal as a message, e.g. if the model was started or deleted since the page was opened."""
        try:
            return view(*arguments)
        except PlatformError as error:
            self.message_user(request, error.message, messages.ERROR)
            return redirect("admin:models_app_model_changelist")

    def save_model(self, request, obj, form, change):
        """Must not create a row again that was deleted since the page was opened."""
        if change:
            catalogue.lock(obj)
        super().save_model(request, obj, form, change)

    def _deletion_problem(self, model: Model) -> str:
        if model_runtime.get_runtime().is_active(model):
            return RUNNING % model
        reason = catalogue.reason_to_keep(model)
        return f"{model}: {reason}" if reason else ""

    def delete_model(self, request, obj):
        catalogue.delete(actor_for_user(request.user), obj, force=False, request=request)

    def delete_queryset(self, request, queryset):
        for model in queryset:
            self.delete_model(request, model)

    def log_deletions(self, request, queryset):
        """Skips AuditedAdmin: the service has written the audit record."""
        return super(AuditedAdmin, self).log_deletions(request, queryset)

    @display(description=_("Status"), label=STATUS_COLOURS)
    def show_status(self, model):
        return status_words.labels_for(self._newest(model)).status

    @display(description=_("Why it failed"))
    def show_reason(self, model):
        newest = self._newest(model)
        return (newest and advice.failure_message(newest)) or "–"

    def _newest(self, model) -> Instance | None:
        return next(iter(model.instances.all()), None)

    @action(description=_("Start"))
    def start_models(self, request, queryset):
        _run_on_each(self, request, queryset, services.start, _("%s is starting."))

    @action(description=_("Stop"))
    def stop_models(self, request, queryset):
        _run_on_each(self, request, queryset, services.stop, STOPPING)

    @action(description=_("Restart"))
    def restart_models(self, request, queryset):
        _run_on_each(self, request, queryset, services.restart, _("%s is restarting."))


def _run_on_each(
    page: AuditedAdmin, request, models: Iterable[Model], service: Callable[[Model], Task], done: str | Promise
) -> None:
    for model in models:
        try:
            service(model)
            page.audit(request, service.__name__, model)
            page.message_user(request, done % model.name, messages.SUCCESS)
        except PlatformError as error:
            page.message_user(request, f"{model.name}: {error.message}", messages.ERROR)


@admin.register(Instance)
class InstanceAdmin(ReadOnlyAdmin):
    list_display = [
        "model",
        "tenant",
        "node",
        "show_state",
        "desired",
        "generation",
        "state_since",
        "profile",
        "stop_reason",
        "failure_reason",
    ]
    list_filter = ["state", "node", "tenant"]
    search_fields = ["model__name", "id"]
    list_select_related = ["model", "tenant", "node"]
    actions = ["stop_instances"]

    @display(
        description=_("State"),
        label={"ready": "success", "starting": "info", "failed": "danger", "draining": "warning"},
    )
    def show_state(self, instance):
        return instance.state

    @action(description=_("Stop"), permissions=["view"])
    def stop_instances(self, request, queryset):
        """Stops the whole model: a single replica would be started again."""
        models = Model.objects.filter(instances__in=queryset.active()).distinct()
        _run_on_each(self, request, models, services.stop, STOPPING)


class DeviceInline(TabularInline):
    model = Device
    extra = 0
    can_delete = False
    fields = readonly_fields = [
        "kind", "index", "name", "cores", "show_total", "show_usable", "show_reserved", "show_used", "show_foreign",
        "suspect",
    ]  # fmt: skip

    @display(description=_("Total"))
    def show_total(self, device):
        return reason_messages.gib(device.total_bytes)

    @display(description=_("Usable"))
    def show_usable(self, device):
        return reason_messages.gib(device.usable_bytes)

    @display(description=_("Reserved"))
    def show_reserved(self, device):
        return reason_messages.gib(device.reserved_bytes)

    @display(description=_("Used"))
    def show_used(self, device):
        return reason_messages.gib(device.used_bytes)

    @display(description=_("Used by others"))
    def show_foreign(self, device):
        return reason_messages.gib(device.foreign_bytes)

    def has_add_permission(self, request, obj=None):
        return False


@admin.register(Node)
class NodeAdmin(ReadOnlyAdmin):
    list_display = ["name", "data_folder", "heartbeat_at", "show_memory", "show_engines"]
    inlines = [DeviceInline]

    def get_queryset(self, request):
        return super().get_queryset(request).prefetch_related("devices")

    @display(description=_("Reserved of usable"))
    def show_memory(self, node):
        parts = (
            f"{device.kind}:{device.index} "
            f"{reason_messages.gib(device.reserved_bytes)} / {reason_messages.gib(device.usable_bytes)}"
            for device in node.devices.all()
        )
        return ", ".join(parts)

    @display(description=_("Engines"))
    def show_engines(self, node):
        """Each engine: ready, or what is missing."""
        return ", ".join(f"{name}: {missing or _('Ready')}" for name, missing in node.engines.items())


@admin.register(Task)
class TaskAdmin(ReadOnlyAdmin):
    list_display = ["id", "kind", "status", "model", "tenant", "created_at", "finished_at", "error"]
    list_filter = ["status", "kind", "tenant"]
    list_select_related = ["model", "tenant"]


@admin.register(CrashDossier)
class CrashDossierAdmin(ReadOnlyAdmin):
    list_display = ["created_at", "model", "tenant", "show_cause", "reason", "exit_code", "exit_signal"]
    list_filter = ["cause", "tenant"]
    search_fields = ["model__name", "reason"]
    list_select_related = ["model", "tenant"]
    readonly_fields = ["show_advice", "show_lines"]
    exclude = ["log_tail"]

    @display(description=_("Cause"), label={Cause.UNKNOWN.label: "info"}, ordering="cause")
    def show_cause(self, dossier):
        return dossier.get_cause_display()

    @display(description=_("What to do"))
    def show_advice(self, dossier):
        return advice.ADVICE[Cause(dossier.cause)]

    @display(description=_("Last lines"))
    def show_lines(self, dossier):
        return format_html("<pre>{}</pre>", "\n".join(dossier.log_tail))
