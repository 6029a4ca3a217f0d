"""Operators' pages for tenants, people and keys."""

from django import forms
from django.contrib import admin, messages
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.models import Group
from django.utils.translation import gettext_lazy as _
from unfold.admin import ModelAdmin, TabularInline
from unfold.decorators import action, display
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm
from unfold.widgets import UnfoldAdminCheckboxSelectMultipleWidget

from accounts import audit, services
from accounts.authentication import actor_for_user
from accounts.console import AuditedAdmin, ReadOnlyAdmin
from accounts.models import ApiKey, AuditRecord, Membership, Scope, Tenant, User

admin.site.unregister(Group)


class MembershipInline(TabularInline):
    model = Membership
    extra = 0
    autocomplete_fields = ["user"]


@admin.register(Tenant)
class TenantAdmin(AuditedAdmin):
    """Closed, not deleted: usage and audit records outlive a tenant."""

    list_display = ["name", "slug", "is_active", "default_model", "created_at"]
    search_fields = ["name", "slug"]
    inlines = [MembershipInline]

    def has_delete_permission(self, request, obj=None):
        return False

    def tenant_of(self, obj):
        return obj.pk


@admin.register(User)
class UserAdmin(DjangoUserAdmin, AuditedAdmin):
    form, add_form, change_password_form = UserChangeForm, UserCreationForm, AdminPasswordChangeForm
    list_display = ["username", "email", "is_active", "is_staff", "default_tenant", "last_login"]
    fieldsets = [
        (None, {"fields": ["username", "password", "email"]}),
        (_("Rights"), {"fields": ["is_active", "is_staff", "default_tenant"]}),
    ]


class KeyForm(forms.ModelForm):
    """Scopes as boxes to tick."""

    scopes = forms.MultipleChoiceField(
        choices=Scope.choices, initial=[Scope.READ, Scope.INFERENCE], widget=UnfoldAdminCheckboxSelectMultipleWidget
    )

    class Meta:
        model = ApiKey
        fields = ["tenant", "name", "role", "scopes", "expires_at"]


@admin.register(ApiKey)
class KeyAdmin(ModelAdmin):
    """The secret is shown once, in the message after saving."""

    form = KeyForm

    list_display = ["name", "prefix", "tenant", "role", "show_state", "last_used_at", "expires_at"]
    list_filter = ["tenant"]
    fields = ["tenant", "name", "role", "scopes", "expires_at"]
    actions = ["revoke_keys"]

    @display(description=_("State"), label={"usable": "success", "revoked": "danger"})
    def show_state(self, key):
        return "revoked" if key.revoked_at else "usable"

    def has_change_permission(self, request, obj=None):
        return False

    def has_delete_permission(self, request, obj=None):
        return False

    def save_model(self, request, obj, form, change):
        fields = {name: form.cleaned_data[name] for name in ("name", "role", "scopes", "expires_at")}
        key, secret = services.issue_key(obj.tenant, maker=request.user, **fields)
        obj.pk, obj.digest, obj.prefix = key.pk, key.digest, key.prefix
        audit.record(actor_for_user(request.user), "key.create", key, request=request, name=key.name)
        self.message_user(request, _("The key, shown this once: %s") % secret, messages.WARNING)

    @action(description=_("Revoke"), permissions=["view"])
    def revoke_keys(self, request, queryset):
        for key in queryset:
            services.revoke_key(key)
            audit.record(actor_for_user(request.user), "key.revoke", key, request=request, name=key.name)
        self.message_user(request, _("Revoked."), messages.SUCCESS)


@admin.register(AuditRecord)
class AuditAdmin(ReadOnlyAdmin):
    list_display = ["at", "actor", "action", "object_type", "object_id", "tenant", "address"]
    list_filter = ["action", "tenant"]
    search_fields = ["actor", "object_id"]
