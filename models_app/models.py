"""The catalogue: which models and adapters a tenant has, under which names, and how they run."""

from typing import Any, ClassVar, Self

from django.contrib.postgres.fields import ArrayField
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from accounts.actor import Actor
from core import ids
from core.tenancy import TenantModel, TenantQuerySet

MAX_REPLICAS = 64
RESERVED_NAMES = frozenset({"all-models", "stop-all", "restart-autostart", "default"})


class Mode(models.TextChoices):
    CHAT = "Chat", _("Chat")
    EMBEDDING = "Embedding", _("Embedding")
    RERANKER = "Reranker", _("Reranker")


class Visibility(models.TextChoices):
    PRIVATE = "private", _("Private to its tenant")
    PUBLIC = "public", _("Public: every tenant may use it")


class ModelQuerySet(TenantQuerySet["Model"]):
    def nameable_by(self, actor: Actor) -> Self:
        """Own and public models: those that a name can mean for `actor`."""
        if actor.sees_all:
            return self
        return self.filter(Q(tenant=actor.tenant) | Q(visibility=Visibility.PUBLIC))

    def usable_by(self, actor: Actor) -> Self:
        """Those that `actor` may read and send requests to: a key may be limited to some."""
        limited = actor.key.allowed_models if actor.key else []
        return self.nameable_by(actor).filter(pk__in=limited) if limited else self.nameable_by(actor)


class Model(TenantModel):
    """A language model that a tenant can start, by command or by a request for it."""

    id = models.CharField(primary_key=True, max_length=ids.LENGTH, default=ids.new_model_id, editable=False)
    name = models.CharField(max_length=200)
    display_name = models.CharField(max_length=200, blank=True)
    description = models.TextField(blank=True)
    framework = models.CharField(max_length=20, default="vllm")
    mode = models.CharField(max_length=10, choices=Mode, default=Mode.CHAT)
    visibility = models.CharField(max_length=10, choices=Visibility, default=Visibility.PRIVATE)
    priority = models.PositiveSmallIntegerField(default=5, validators=[MinValueValidator(1), MaxValueValidator(10)])
    config = models.JSONField(default=dict, blank=True, help_text=_("Engine options and sampling defaults."))
    resource_requirements = models.JSONField(default=dict, blank=True)
    profiles = models.JSONField(
        default=list,
        blank=True,
        help_text=_("Device configurations, tried in this order; none means wherever it fits."),
    )
    replicas = models.PositiveSmallIntegerField(
        default=1,
        validators=[MinValueValidator(1), MaxValueValidator(MAX_REPLICAS)],
        help_text=_("Instances that run while it runs."),
    )
    tags = ArrayField(models.CharField(max_length=50), default=list, blank=True)
    auto_start = models.BooleanField(default=False, help_text=_("Started with the worker."))
    pinned = models.BooleanField(default=False, help_text=_("Never unloaded, neither for idleness nor for room."))
    idle_timeout = models.PositiveIntegerField(
        default=1800, help_text=_("Seconds without a request until its memory is given back; 0 means never.")
    )
    wait_timeout = models.PositiveIntegerField(
        default=180, help_text=_("Seconds that a request waits for the model to start.")
    )
    created_by = models.ForeignKey("accounts.User", null=True, blank=True, on_delete=models.SET_NULL, related_name="+")

    objects: ClassVar = ModelQuerySet.as_manager()
    running: dict[str, Any]  # what the app that runs models reports, where a view has attached it

    class Meta:
        ordering = ["-created_at", "id"]
        constraints = [models.UniqueConstraint(fields=["tenant", "name"], name="one_model_of_a_name_per_tenant")]

    def __str__(self):
        return self.name


class ModelAlias(TenantModel):
    """Another name of a model within its tenant."""

    model = models.ForeignKey(Model, on_delete=models.CASCADE, related_name="aliases")
    name = models.CharField(max_length=200)

    class Meta:
        ordering = ["id"]
        constraints = [models.UniqueConstraint(fields=["tenant", "name"], name="one_alias_of_a_name_per_tenant")]

    def __str__(self):
        return self.name


class AdapterQuerySet(TenantQuerySet["Adapter"]):
    def visible_to(self, actor):
        """A key limited to some models sees the adapters in its list, and those that it trained from models in it.

        Access to a base model gives no access to adapters that others trained.
        """
        visible = super().visible_to(actor)
        limited = actor.key.allowed_models if actor.key else []
        if not limited:
            return visible
        trained = AdapterVersion.objects.filter(key_id=actor.key.pk, adapter__base_model__in=limited)
        return visible.filter(Q(pk__in=limited) | Q(pk__in=trained.values("adapter")))


class Adapter(TenantModel):
    """A tenant's name for fine-tuned versions of `base_model`. It serves `current`, if it is published."""

    id = models.CharField(primary_key=True, max_length=ids.LENGTH, default=ids.new_adapter_id, editable=False)
    name = models.CharField(max_length=200)
    base_model = models.ForeignKey(Model, on_delete=models.RESTRICT, related_name="adapters")
    current = models.ForeignKey("AdapterVersion", null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    created_by = models.ForeignKey("accounts.User", null=True, blank=True, on_delete=models.SET_NULL, related_name="+")

    objects: ClassVar = AdapterQuerySet.as_manager()

    class Meta:
        verbose_name, verbose_name_plural = _("adapter"), _("Adapters")
        ordering = ["-created_at", "id"]
        constraints = [models.UniqueConstraint(fields=["tenant", "name"], name="one_adapter_of_a_name_per_tenant")]

    def __str__(self):
        return self.name


class AdapterVersion(TenantModel):
    """The result of one training; its files never change (models_app/adapters/files.py). Engines know it by its id.

    Until it is published it is on trial: only its maker can use it.
    """

    id = models.CharField(primary_key=True, max_length=ids.LENGTH, default=ids.new_version_id, editable=False)
    adapter = models.ForeignKey(Adapter, on_delete=models.CASCADE, related_name="versions")
    number = models.PositiveIntegerField()
    rank = models.PositiveSmallIntegerField()
    size_bytes = models.PositiveBigIntegerField()
    sha256 = models.CharField(max_length=64, help_text=_("Of the weights."))
    job_id = models.CharField(max_length=ids.LENGTH, blank=True, help_text=_("The training that made it."))
    dataset_id = models.CharField(max_length=ids.LENGTH, blank=True)
    dataset_name = models.CharField(max_length=100, blank=True)
    dataset_version = models.PositiveIntegerField(null=True)
    evaluation = models.JSONField(
        null=True, blank=True, help_text=_("Loss, perplexity and sample answers before and after the training.")
    )
    published_at = models.DateTimeField(null=True, blank=True, help_text=_("When it was first published."))
    created_by = models.ForeignKey("accounts.User", null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    key_id = models.CharField(max_length=ids.LENGTH, blank=True, help_text=_("The API key that asked for it."))

    class Meta:
        verbose_name, verbose_name_plural = _("adapter version"), _("Adapter versions")
        ordering = ["-number", "id"]
        constraints = [
            models.UniqueConstraint(fields=["adapter", "number"], name="one_version_of_a_number_per_adapter")
        ]

    def __str__(self):
        return f"{self.adapter} v{self.number}"
