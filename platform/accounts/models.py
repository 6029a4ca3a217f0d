"""Tenants, users, memberships, API keys, login sessions, audit records, and the shared configuration."""

from typing import ClassVar, Self

from django.contrib.auth.models import AbstractUser
from django.contrib.postgres.fields import ArrayField
from django.core.validators import RegexValidator
from django.db import models
from django.db.models import OuterRef, Q, Subquery
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from core import ids
from core.tenancy import TenantModel, TenantQuerySet


class Role(models.TextChoices):
    VIEWER = "viewer", _("Viewer")
    MEMBER = "member", _("Member")
    ADMIN = "admin", _("Admin")
    OWNER = "owner", _("Owner")


ROLE_RANK = {Role.VIEWER: 0, Role.MEMBER: 1, Role.ADMIN: 2, Role.OWNER: 3}


class Scope(models.TextChoices):
    READ = "read", _("Read")
    INFERENCE = "inference", _("Inference")
    TRAINING = "training", _("Training")
    MODELS = "models", _("Models")
    MONITORING = "monitoring", _("Monitoring")
    METRICS = "metrics", _("Prometheus metrics")  # of the whole platform: effective only in an operator's key


class Tenant(models.Model):
    """A team: the owner of models, keys, jobs and metrics."""

    id = models.CharField(primary_key=True, max_length=ids.LENGTH, default=ids.new_tenant_id, editable=False)
    slug = models.CharField(max_length=50, unique=True, validators=[RegexValidator(r"^[a-z0-9][a-z0-9-]*$")])
    name = models.CharField(max_length=100)
    is_active = models.BooleanField(default=True)
    default_model = models.CharField(max_length=200, blank=True, help_text=_("Serves requests that name no model."))
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["slug"]

    def __str__(self):
        return self.name


class User(AbstractUser):
    """A person. Operators have is_staff and see all tenants."""

    id = models.CharField(primary_key=True, max_length=ids.LENGTH, default=ids.new_user_id, editable=False)
    default_tenant = models.ForeignKey(Tenant, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")

    @property
    def is_operator(self) -> bool:
        return self.is_active and self.is_staff

    def has_perm(self, perm, obj=None) -> bool:
        """For Django's admin only; accounts/policy.py defines the permissions of the APIs."""
        return self.is_operator

    def has_module_perms(self, app_label) -> bool:
        return self.is_operator


class Membership(TenantModel):
    """A person's role in a tenant."""

    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=10, choices=Role, default=Role.MEMBER)

    class Meta:
        ordering = ["id"]
        constraints = [models.UniqueConstraint(fields=["tenant", "user"], name="one_role_per_tenant")]

    def __str__(self):
        return f"{self.user} ({self.role})"


class ApiKeyQuerySet(TenantQuerySet["ApiKey"]):
    def usable(self) -> Self:
        """Not expired, revoked or orphaned: a key is invalid once its maker has left the tenant."""
        maker = Membership.objects.filter(tenant=OuterRef("tenant"), user=OuterRef("created_by"))
        return self.annotate(maker_role=Subquery(maker.values("role"))).filter(
            Q(expires_at=None) | Q(expires_at__gt=timezone.now()),
            Q(created_by__is_staff=True) | Q(maker_role__isnull=False),
            revoked_at=None,
            tenant__is_active=True,
            created_by__is_active=True,
        )


class ApiKey(TenantModel):
    """A secret that acts for one tenant. Only its digest is stored; `role` limits what its scopes allow."""

    id = models.CharField(primary_key=True, max_length=ids.LENGTH, default=ids.new_key_id, editable=False)
    name = models.CharField(max_length=100)
    created_by = models.ForeignKey(User, null=True, on_delete=models.SET_NULL, related_name="+")
    role = models.CharField(max_length=10, choices=Role, default=Role.MEMBER)
    prefix = models.CharField(max_length=16, editable=False)
    digest = models.BinaryField(max_length=32, unique=True, editable=False)
    scopes = ArrayField(models.CharField(max_length=12, choices=Scope), default=list)
    allowed_models = ArrayField(
        models.CharField(max_length=ids.LENGTH),
        default=list,
        blank=True,
        help_text=_("Ids of the models it may use; empty means all of the tenant's."),
    )
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True, editable=False)

    objects: ClassVar = ApiKeyQuerySet.as_manager()

    class Meta:
        ordering = ["-created_at"]

    @property
    def effective_role(self) -> Role:
        """At most the current role of its maker. Only for rows from `usable()`."""
        by_operator = self.created_by is not None and self.created_by.is_staff
        limit = Role.OWNER if by_operator else Role(vars(self)["maker_role"])
        return min(Role(self.role), limit, key=lambda role: ROLE_RANK[role])

    def __str__(self):
        return f"{self.name} ({self.prefix}…)"


class LoginSession(models.Model):
    """One login over the API: its access and refresh tokens carry `id` as `sid` and are valid only with it."""

    id = models.UUIDField(primary_key=True, editable=False)
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="login_sessions")
    refresh_jti = models.CharField(max_length=64, help_text=_("The one refresh token that is still good."))
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField()
    revoked_at = models.DateTimeField(null=True, blank=True)


class OneTimeLink(models.Model):
    """Logs a person into the console once (the link in the start-up banner)."""

    digest = models.BinaryField(max_length=32, unique=True)
    user = models.ForeignKey(User, on_delete=models.CASCADE)
    expires_at = models.DateTimeField()


class AuditRecord(models.Model):
    """An administrative action: actor, action, object and address."""

    at = models.DateTimeField(auto_now_add=True, db_index=True)
    tenant = models.ForeignKey(Tenant, null=True, on_delete=models.SET_NULL, related_name="+")
    user = models.ForeignKey(User, null=True, on_delete=models.SET_NULL, related_name="+")
    key = models.ForeignKey(ApiKey, null=True, on_delete=models.SET_NULL, related_name="+")
    actor = models.CharField(max_length=200, help_text=_("The actor's name at that time."))
    action = models.CharField(max_length=60)
    object_type = models.CharField(max_length=40)
    object_id = models.CharField(max_length=200)
    details = models.JSONField(default=dict)
    address = models.GenericIPAddressField(null=True)
    request_id = models.CharField(max_length=64, blank=True)

    objects = TenantQuerySet.as_manager()

    class Meta:
        ordering = ["-at", "-id"]


class ConfigurationValue(models.Model):
    """One changed value of the configuration; unchanged keys have their default (accounts/configuration.py)."""

    key = models.CharField(primary_key=True, max_length=80)
    value = models.JSONField()
    changed_at = models.DateTimeField(auto_now=True)
    changed_by = models.ForeignKey(User, null=True, on_delete=models.SET_NULL, related_name="+")


class Installation(models.Model):
    """The one row that gives this installation its identity: engines carry `cluster_id`."""

    cluster_id = models.UUIDField(unique=True)
    created_at = models.DateTimeField(auto_now_add=True)
