"""Tenants, members, keys and audit records as JSON. Writable fields are listed explicitly."""

from django.contrib.auth.password_validation import validate_password
from django.utils import timezone
from django.utils.translation import gettext_lazy as _
from rest_framework import serializers

from accounts import configuration
from accounts.models import ApiKey, AuditRecord, Membership, Role, Scope, Tenant


class CredentialsSerializer(serializers.Serializer):
    username = serializers.CharField(max_length=150)
    password = serializers.CharField(max_length=512, trim_whitespace=False, write_only=True)


class RefreshSerializer(serializers.Serializer):
    refresh_token = serializers.CharField(max_length=4096)


class RevokeSerializer(serializers.Serializer):
    token = serializers.CharField(max_length=4096)


class LogInSerializer(serializers.Serializer):
    access_token = serializers.CharField()
    token_type = serializers.CharField()
    expires_in = serializers.IntegerField()
    refresh_token = serializers.CharField()


class TicketSerializer(serializers.Serializer):
    """`ticket` is valid once, as `?ticket=` of a log stream or of /ws/monitor, for `expires_in` seconds."""

    ticket = serializers.CharField()
    expires_in = serializers.IntegerField()


class TenantSerializer(serializers.ModelSerializer):
    class Meta:
        model = Tenant
        fields = ["id", "slug", "name", "is_active", "default_model", "created_at"]
        read_only_fields = ["id", "created_at"]


class MemberSerializer(serializers.ModelSerializer):
    """A new member is named by an account; an operator may give a password, which creates the account."""

    username = serializers.CharField(max_length=150, source="user.username")
    email = serializers.EmailField(source="user.email", required=False, allow_blank=True)
    password = serializers.CharField(write_only=True, required=False, max_length=512, validators=[validate_password])

    class Meta:
        model = Membership
        fields = ["id", "tenant", "username", "email", "password", "role", "created_at"]
        read_only_fields = ["id", "tenant", "created_at"]


class RoleSerializer(serializers.Serializer):
    role = serializers.ChoiceField(choices=Role.choices)


class KeySerializer(serializers.ModelSerializer):
    scopes = serializers.ListField(
        child=serializers.ChoiceField(choices=Scope.choices), default=lambda: [Scope.READ, Scope.INFERENCE]
    )
    role = serializers.ChoiceField(choices=Role.choices, default=Role.MEMBER)
    allowed_models = serializers.ListField(child=serializers.CharField(max_length=200), required=False, max_length=500)
    created_by = serializers.CharField(source="created_by.username", read_only=True, default=None)

    class Meta:
        model = ApiKey
        fields = [
            "id",
            "tenant",
            "name",
            "prefix",
            "role",
            "scopes",
            "allowed_models",
            "expires_at",
            "revoked_at",
            "last_used_at",
            "created_by",
            "created_at",
        ]
        read_only_fields = ["id", "tenant", "prefix", "revoked_at", "last_used_at", "created_by", "created_at"]

    def validate_expires_at(self, value):
        if value and value <= timezone.now():
            raise serializers.ValidationError(_("It must lie in the future."))
        return value


class NewKeySerializer(KeySerializer):
    """The reply to the creation of a key, the only one that contains the secret."""

    secret = serializers.CharField(read_only=True)

    class Meta(KeySerializer.Meta):
        fields = [*KeySerializer.Meta.fields, "secret"]


class ConfigurationHistoryQuerySerializer(serializers.Serializer):
    setting = serializers.ChoiceField(choices=list(configuration.SETTINGS), required=False)


class ConfigurationChangeSerializer(serializers.ModelSerializer):
    """One changed value. `old` is the default if the value was never changed before."""

    setting = serializers.CharField(source="object_id")
    old = serializers.JSONField(source="details.old")
    new = serializers.JSONField(source="details.new")

    class Meta:
        model = AuditRecord
        fields = ["at", "setting", "old", "new", "actor", "address", "request_id"]


class AuditSerializer(serializers.ModelSerializer):
    class Meta:
        model = AuditRecord
        fields = [
            "id",
            "at",
            "tenant",
            "actor",
            "action",
            "object_type",
            "object_id",
            "details",
            "address",
            "request_id",
        ]
