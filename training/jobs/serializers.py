"""Serializers of training jobs for the service API (`/api`)."""

from django.utils.functional import cached_property
from django.utils.translation import gettext_lazy as _
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from models_app import options
from training.jobs import queue, recipe
from training.models import TrainingJob, TrainingProgress

MAX_REF_LENGTH = 500
MAX_POINTS = 10_000


class TextField(serializers.CharField):
    """Refuses numbers."""

    def to_internal_value(self, data):
        if not isinstance(data, str):
            self.fail("invalid")
        return super().to_internal_value(data)


@extend_schema_field(options.schema(recipe.TABLES["recipe"]))
class RecipeField(serializers.JSONField):
    """Hyperparameters; training/jobs/recipe.py checks them."""


class StartTrainingSerializer(serializers.Serializer):
    """`dataset` is an id, or a name for its newest version. Fields missing in `recipe` get the documented defaults."""

    base_model = TextField(max_length=MAX_REF_LENGTH)
    dataset = TextField(max_length=MAX_REF_LENGTH)
    adapter = TextField(
        max_length=MAX_REF_LENGTH,
        required=False,
        help_text=_("What comes of it is a version of this adapter, by default called after model and data set."),
    )
    recipe = RecipeField(required=False, allow_null=True)


class WaitingSerializer(serializers.Serializer):
    """`position` counts from 1."""

    position = serializers.IntegerField()
    reason = serializers.CharField()


class JobSerializer(serializers.ModelSerializer):
    """`status` is that of the engine API; `state` lags behind it while a trainer is stopping.

    `node` is shown to operators only. `estimate` is in bytes, by device kind. `rows_cut` lose their end at the recipe's
    length, of `rows_left_out` nothing is learnt; null until they are counted.
    """

    tenant = serializers.CharField(source="tenant.slug")
    status = serializers.CharField()
    base_model_name = serializers.CharField(source="base_name")
    adapter = serializers.CharField(source="adapter_name")
    recipe = RecipeField()
    waiting = serializers.SerializerMethodField()
    checkpoint_step = serializers.SerializerMethodField()
    node = serializers.SerializerMethodField()
    created_by = serializers.CharField(source="created_by.username", allow_null=True, default=None)
    rows_cut = serializers.IntegerField(allow_null=True, read_only=True)
    rows_left_out = serializers.IntegerField(allow_null=True, read_only=True)

    class Meta:
        model = TrainingJob
        fields = [
            "id", "tenant", "status", "state", "base_model", "base_model_name", "dataset", "dataset_name",
            "dataset_version", "adapter", "recipe", "rows_cut", "rows_left_out", "waiting", "step", "total_steps",
            "epoch", "loss", "eval_loss", "learning_rate", "grad_norm", "tokens_per_second", "elapsed_seconds",
            "eta_seconds", "checkpoint_step", "estimate", "crashes", "failure_reason", "failure_cause", "node",
            "created_by", "created_at", "started_at", "finished_at",
        ]  # fmt: skip

    @extend_schema_field(WaitingSerializer(allow_null=True))
    def get_waiting(self, job):
        position = self._positions.get(job.pk)
        return None if position is None else {"position": position, "reason": queue.wait_reason(job)}

    @cached_property
    def _positions(self) -> dict[str, int]:
        """Read once for all jobs of a page."""
        return queue.positions()

    def get_checkpoint_step(self, job) -> int | None:
        return job.checkpoints[-1]["step"] if job.checkpoints else None

    def get_node(self, job) -> str | None:
        shown = self.context["request"].auth.is_operator and job.node
        return job.node.name if shown else None


class StartedSerializer(JobSerializer):
    """`warnings` say which rows are cut or left out, and why the base model could not serve the adapter yet."""

    warnings = serializers.ListField(child=serializers.CharField(), required=False)

    class Meta(JobSerializer.Meta):
        fields = [*JobSerializer.Meta.fields, "warnings"]


class ProgressQuerySerializer(serializers.Serializer):
    """Steps after `after`, at most `limit`."""

    after = serializers.IntegerField(min_value=-1, max_value=2**31 - 1, default=-1)
    limit = serializers.IntegerField(min_value=1, max_value=MAX_POINTS, default=1000)


class PointSerializer(serializers.ModelSerializer):
    """One logged step; `elapsed` and `eta` are in seconds."""

    class Meta:
        model = TrainingProgress
        fields = [
            "step", "epoch", "loss", "eval_loss", "learning_rate", "grad_norm", "tokens_per_second", "elapsed", "eta",
            "at",
        ]  # fmt: skip


class ProgressSerializer(serializers.Serializer):
    """Oldest first."""

    job_id = serializers.CharField()
    progress = PointSerializer(many=True)
