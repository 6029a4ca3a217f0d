"""Operators' pages for tenants, people and keys."""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.actions import delete_selected
from django.contrib.admin.utils import unquote
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.models import Group
from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import QuerySet
from django.forms.models import BaseInlineFormSet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils.translation import gettext_lazy as _
from unfold.admin import ModelAdmin, TabularInline
from unfold.decorators import action, display
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm
from unfold.widgets import UnfoldAdminCheckboxSelectMultipleWidget

from accounts import audit, operators, services
from accounts.authentication import actor_for_user
from accounts.console import AuditedAdmin, ReadOnlyAdmin
from accounts.models import ApiKey, AuditRecord, Membership, Role, Scope, Tenant, User
from core.errors import Conflict

admin.site.unregister(Group)


class MembershipFormSet(BaseInlineFormSet):
    """The members of a tenant, of whom the last owner stays, as over REST."""

    def clean(self) -> None:
        super().clean()
        if any(self.errors):
            return
        kept = [form.cleaned_data.get("role") for form in self.forms if not form.cleaned_data.get("DELETE")]
        if any(form.initial.get("role") == Role.OWNER for form in self.initial_forms) and Role.OWNER not in kept:
            raise ValidationError(_("A tenant needs at least one owner."))


class MembershipInline(TabularInline):
    model = Membership
    formset = MembershipFormSet
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


class AccountForm(UserChangeForm):
    """`editor` is the operator who fills it in; UserAdmin sets it."""

    editor: User

    def clean(self) -> dict:
        fields = super().clean()
        lost = [name for name in ("is_active", "is_staff") if not fields.get(name)]
        if self.instance.is_operator and lost:
            try:
                operators.require_removable([self.instance], by=self.editor)
            except Conflict as refusal:
                self.add_error(lost[0], str(refusal.message))
        return fields


@admin.register(User)
class UserAdmin(DjangoUserAdmin, AuditedAdmin):
    """The last operator and oneself can be neither deleted nor demoted nor disabled."""

    form, add_form, change_password_form = AccountForm, UserCreationForm, AdminPasswordChangeForm
    list_display = ["username", "email", "is_active", "is_staff", "default_tenant", "last_login"]
    fieldsets = [
        (None, {"fields": ["username", "password", "email"]}),
        (_("Rights"), {"fields": ["is_active", "is_staff", "default_tenant"]}),
    ]
    actions = ["delete_selected"]

    def get_form(
        self, request: HttpRequest, obj: User | None = None, change: bool = False, **options: Any
    ) -> type[forms.ModelForm]:
        form = super().get_form(request, obj, change=change, **options)
        return type("AccountForm", (form,), {"editor": request.user})

    @transaction.atomic
    def delete_view(self, request: HttpRequest, object_id: str, extra_context: dict | None = None) -> HttpResponse:
        if self._refuses_deletion(request, User.objects.filter(pk=unquote(object_id))):
            return redirect("admin:accounts_user_change", object_id)
        return super().delete_view(request, object_id, extra_context)

    @action(description=_("Delete the selected accounts"), permissions=["delete"])
    @transaction.atomic
    def delete_selected(self, request: HttpRequest, queryset: QuerySet[User]) -> HttpResponse | None:
        if self._refuses_deletion(request, queryset):
            return None
        return delete_selected(self, request, queryset)

    def _refuses_deletion(self, request: HttpRequest, users: QuerySet[User]) -> bool:
        """Whether these accounts must stay; says why on the next page."""
        try:
            operators.require_removable(users, by=request.user)
        except Conflict as refusal:
            self.message_user(request, str(refusal.message), messages.ERROR)
            return True
        return False


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
