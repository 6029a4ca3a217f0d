"""Base classes of the operators' pages: every change writes an audit record; what agents write is read-only."""

from unfold.admin import ModelAdmin

from accounts import audit
from accounts.authentication import actor_for_user


class AuditedAdmin(ModelAdmin):
    """Changes go to Django's own admin log and also to the audit log, as those made over REST."""

    def log_addition(self, request, obj, message):
        self.audit(request, "create", obj, changes=message)
        return super().log_addition(request, obj, message)

    def log_change(self, request, obj, message):
        self.audit(request, "change", obj, changes=message)
        return super().log_change(request, obj, message)

    def log_deletions(self, request, queryset):
        for obj in queryset:
            self.audit(request, "delete", obj, name=str(obj))
        return super().log_deletions(request, queryset)

    def audit(self, request, verb: str, obj, **details) -> None:
        actor, action = actor_for_user(request.user), f"{self.opts.model_name}.{verb}"
        audit.record(actor, action, obj, tenant_id=self.tenant_of(obj), request=request, **details)

    def tenant_of(self, obj) -> str | None:
        return getattr(obj, "tenant_id", None)


class ReadOnlyAdmin(AuditedAdmin):
    def has_add_permission(self, request, obj=None):
        return False

    def has_change_permission(self, request, obj=None):
        return False

    def has_delete_permission(self, request, obj=None):
        return False
