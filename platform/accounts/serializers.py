"""Tenants, members, keys and audit records as JSON. Writable fields are listed explicitly."""

from django.contrib.auth.password_validation import validate_password
from django.utils import timezone
from django.utils.translation import gettext_lazy as _
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from accounts import configuration
from accounts.actor import actor_of
from accounts.models import ApiKey, AuditRecord, Invitation, Membership, Role, Scope, Tenant, User


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


class OwnTenantSerializer(serializers.ModelSerializer[Membership]):
    """A tenant that a person belongs to, and the role there."""

    id = serializers.CharField(source="tenant.id")
    slug = serializers.CharField(source="tenant.slug")
    name = serializers.CharField(source="tenant.name")

    class Meta:
        model = Membership
        fields = ["id", "slug", "name", "role"]


class OwnAccountSerializer(serializers.ModelSerializer[User]):
    """`tenant` is the one that this request acts for; `name` and `language` can be changed."""

    name = serializers.CharField(source="first_name", max_length=150, allow_blank=True, required=False)
    is_operator = serializers.BooleanField(read_only=True)
    tenant = serializers.SerializerMethodField()
    tenants = serializers.SerializerMethodField()

    class Meta:
        model = User
        fields = ["id", "username", "name", "email", "language", "is_operator", "tenant", "tenants", "date_joined"]
        read_only_fields = ["id", "username", "email", "date_joined"]

    def get_tenant(self, _user: User) -> str | None:
        actor = actor_of(self.context["request"])
        return actor.tenant.slug if actor.tenant else None

    @extend_schema_field(OwnTenantSerializer(many=True))
    def get_tenants(self, user: User) -> list[dict]:
        memberships = user.memberships.filter(tenant__is_active=True).select_related("tenant").order_by("tenant__slug")
        return list(OwnTenantSerializer(memberships, many=True).data)


class PasswordChangeSerializer(serializers.Serializer):
    old = serializers.CharField(max_length=512, trim_whitespace=False, write_only=True)
    new = serializers.CharField(max_length=512, trim_whitespace=False, write_only=True)


class InvitationSerializer(serializers.ModelSerializer[Invitation]):
    """With a `username` only that person may accept it, with or without an account today."""

    created_by = serializers.CharField(source="created_by.username", read_only=True)

    class Meta:
        model = Invitation
        fields = ["id", "tenant", "username", "role", "created_by", "created_at", "expires_at"]
        read_only_fields = ["id", "tenant", "created_at", "expires_at"]


class NewInvitationSerializer(InvitationSerializer):
    """The reply to the creation of an invitation, the only one that contains the token and the link."""

    token = serializers.CharField(read_only=True)
    link = serializers.URLField(read_only=True)

    class Meta(InvitationSerializer.Meta):
        fields = [*InvitationSerializer.Meta.fields, "token", "link"]


class AcceptanceSerializer(serializers.Serializer):
    """Who is logged in sends the token alone; else `username` and `password` are those of the new account."""

    token = serializers.CharField(max_length=100)
    username = serializers.CharField(max_length=150, required=False)
    password = serializers.CharField(max_length=512, required=False, trim_whitespace=False, write_only=True)


class JoinedSerializer(serializers.Serializer):
    """Who joined, and what he joined."""

    username = serializers.CharField()
    tenant = OwnTenantSerializer()


class ResetLinkSerializer(serializers.Serializer):
    """`link` is good once, for `expires_in` seconds; it is shown only here."""

    link = serializers.URLField()
    expires_in = serializers.IntegerField()


class MemberSerializer(serializers.ModelSerializer):
    """A new member is named by an account; an operator may give a password, which creates the account."""

    username = serializers.CharField(max_length=150, source="user.username")
    email = serializers.EmailField(source="user.email", required=False, allow_blank=True)
    password = serializers.CharField(write_only=True, required=False, max_length=512, validators=[validate_password])

    class Meta:
        model = Membership
        fields = ["id", "tenant", "username", "email", "password", "role", "created_at"]
        read_only_fields = ["id", "tenant", "created_at"]


class NewMemberSerializer(serializers.Serializer):
    """Either a member, with `invitation` null, or an invitation, with `id` and `created_at` null."""

    id = serializers.IntegerField(allow_null=True)
    tenant = serializers.CharField()
    username = serializers.CharField()
    email = serializers.CharField(allow_blank=True)
    role = serializers.ChoiceField(choices=Role.choices)
    created_at = serializers.DateTimeField(allow_null=True)
    invitation = NewInvitationSerializer(allow_null=True)


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


class OwnKeySerializer(KeySerializer):
    """By default a key for reading and inference, or for reading only if the own role allows no more."""

    scopes = serializers.ListField(child=serializers.ChoiceField(choices=Scope.choices), required=False)
    role = serializers.ChoiceField(choices=Role.choices, required=False)


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
