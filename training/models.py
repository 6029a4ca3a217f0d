"""Datasets, training jobs and their progress."""

from typing import ClassVar

from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from core import ids
from core.tenancy import TenantModel, TenantQuerySet
from engines.crash_cause import Cause
from inference.models import Node
from models_app.models import Model


class Format(models.TextChoices):
    MESSAGES = "messages", _("Conversations")
    PROMPT = "prompt", _("Prompt and completion")
    INSTRUCTION = "instruction", _("Instruction, input and output")


class Dataset(TenantModel):
    """One version of a dataset, checked row by row; its file never changes (training/datasets/storage.py)."""

    id = models.CharField(primary_key=True, max_length=ids.LENGTH, default=ids.new_dataset_id, editable=False)
    name = models.CharField(max_length=100)
    version = models.PositiveIntegerField()
    format = models.CharField(max_length=12, choices=Format)
    rows = models.PositiveIntegerField()
    characters = models.PositiveBigIntegerField()
    size_bytes = models.PositiveBigIntegerField()
    sha256 = models.CharField(max_length=64)
    origin = models.JSONField(
        default=dict,
        help_text=_("The uploaded file: its kind, the fields of its rows, those without a meaning, rows of weight 0."),
    )
    created_by = models.ForeignKey("accounts.User", null=True, on_delete=models.SET_NULL, related_name="+")

    class Meta:
        verbose_name, verbose_name_plural = _("data set"), _("Data sets")
        ordering = ["-created_at", "id"]
        constraints = [models.UniqueConstraint(fields=["tenant", "name", "version"], name="one_dataset_per_version")]

    def __str__(self):
        return f"{self.name} v{self.version}"


class JobState(models.TextChoices):
    """The values of the engine API (`/api/v1`)."""

    QUEUED = "queued", _("Queued")
    RUNNING = "running", _("Running")
    PAUSED = "paused", _("Paused")
    COMPLETED = "completed", _("Completed")
    FAILED = "failed", _("Failed")
    CANCELLED = "cancelled", _("Cancelled")


ACTIVE_STATES = [JobState.QUEUED, JobState.RUNNING]
LIVE_STATES = [*ACTIVE_STATES, JobState.PAUSED]


class DesiredJobState(models.TextChoices):
    RUNNING = "running", _("Running")
    PAUSED = "paused", _("Paused")
    CANCELLED = "cancelled", _("Cancelled")


class TrainingJobQuerySet(TenantQuerySet["TrainingJob"]):
    def visible_to(self, actor):
        """A key that is limited to some models sees only the jobs that train those."""
        visible = super().visible_to(actor)
        limited = actor.key.allowed_models if actor.key else []
        return visible.filter(base_model__in=limited) if limited else visible

    def live(self):
        """Jobs that have not ended; they need their base model and their dataset."""
        return self.filter(state__in=LIVE_STATES)

    def ended(self):
        return self.exclude(state__in=LIVE_STATES)

    def waiting(self):
        """Jobs that wait for a device."""
        return self.filter(state=JobState.QUEUED, node=None, desired=DesiredJobState.RUNNING)

    def placed(self):
        """Jobs that hold devices."""
        return self.filter(state__in=ACTIVE_STATES, node__isnull=False)

    def with_status(self, status):
        """By TrainingJob.status."""
        if status in ACTIVE_STATES:
            return self.filter(state=status, desired=DesiredJobState.RUNNING)
        return self.filter(Q(state=status) | Q(state__in=ACTIVE_STATES, desired=status))


class TrainingJob(TenantModel):
    """One LoRA fine-tuning of a base model on a dataset.

    The queue and the services write a row without a node. A row with a node is written by that node's runner only; user
    requests then only set `desired`. A paused job has no node. An accepted cancel is final: the job ends as cancelled
    even if its trainer has just finished. A pause can be withdrawn before it takes effect: the runner then resumes from
    the checkpoint. `generation` is the run that is wanted, `running_generation` the one that was started last.
    """

    id = models.CharField(primary_key=True, max_length=ids.LENGTH, default=ids.new_job_id, editable=False)
    base_model = models.ForeignKey(Model, null=True, on_delete=models.SET_NULL, related_name="training_jobs")
    base_name = models.CharField(max_length=200, help_text=_("The base model as it was called at the start."))
    dataset = models.ForeignKey(Dataset, null=True, on_delete=models.SET_NULL, related_name="training_jobs")
    dataset_name = models.CharField(max_length=100)
    dataset_version = models.PositiveIntegerField()
    adapter_name = models.CharField(max_length=200, help_text=_("What comes of it is a version of this adapter."))
    recipe = models.JSONField(help_text=_("Hyperparameters, with numbers for what was automatic."))
    row_counts = models.JSONField(
        default=dict, help_text=_("Rows that are cut or left out: counted before the start, then by the trainer.")
    )
    estimate = models.JSONField(default=dict, help_text=_("Bytes of device memory that it will need, by part."))
    created_by = models.ForeignKey("accounts.User", null=True, on_delete=models.SET_NULL, related_name="+")
    key = models.ForeignKey("accounts.ApiKey", null=True, on_delete=models.SET_NULL, related_name="+")

    state = models.CharField(max_length=10, choices=JobState, default=JobState.QUEUED)
    desired = models.CharField(max_length=10, choices=DesiredJobState, default=DesiredJobState.RUNNING)
    node = models.ForeignKey(Node, null=True, on_delete=models.SET_NULL, related_name="training_jobs")
    generation = models.PositiveIntegerField(default=1)
    running_generation = models.PositiveIntegerField(default=0)
    placement = models.JSONField(default=dict, help_text=_("Devices and bytes that it holds."))
    waits = models.JSONField(default=dict, help_text=_("Why it was not placed when it was last looked at."))
    launch = models.JSONField(null=True, help_text=_("How it was started: arguments and environment."))
    pid = models.PositiveIntegerField(null=True)

    step = models.PositiveIntegerField(default=0)
    total_steps = models.PositiveIntegerField(null=True)
    epoch = models.FloatField(default=0)
    loss = models.FloatField(null=True)
    eval_loss = models.FloatField(null=True)
    learning_rate = models.FloatField(null=True)
    grad_norm = models.FloatField(null=True)
    tokens_per_second = models.FloatField(null=True)
    eta_seconds = models.FloatField(null=True)
    elapsed_seconds = models.FloatField(default=0, help_text=_("Of all its runs."))

    checkpoints = models.JSONField(default=list, help_text=_("Generation, step, folder and signature, newest last."))
    crashes = models.PositiveSmallIntegerField(default=0, help_text=_("At the same step."))
    crashed_at_step = models.PositiveIntegerField(null=True)
    failure_reason = models.TextField(blank=True)
    failure_cause = models.CharField(max_length=20, choices=Cause, blank=True)
    log_tail = models.JSONField(default=list, help_text=_("The last lines before a failure."))
    state_since = models.DateTimeField(auto_now_add=True)
    queued_at = models.DateTimeField(auto_now_add=True)
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)

    objects: ClassVar = TrainingJobQuerySet.as_manager()

    class Meta:
        verbose_name, verbose_name_plural = _("training job"), _("Training jobs")
        ordering = ["-created_at", "id"]

    def __str__(self):
        return self.id

    @property
    def status(self) -> str:
        """What users see: an accepted pause or cancel counts at once, though its trainer may still be stopping."""
        is_stopping = self.state in ACTIVE_STATES and self.desired != DesiredJobState.RUNNING
        return self.desired if is_stopping else self.state

    @property
    def rows_cut(self) -> int | None:
        """Rows that lose their end at the recipe's length. None until they are counted."""
        return self.row_counts.get("cut")

    @property
    def rows_left_out(self) -> int | None:
        """Rows of which nothing is learnt. None until they are counted."""
        return self.row_counts.get("left_out")

    @property
    def is_waiting(self) -> bool:
        """For a device, by the rule of TrainingJobQuerySet.waiting()."""
        return self.status == JobState.QUEUED and self.node_id is None


class TrainingProgress(models.Model):
    """One logged step of a job. A step that is repeated after a crash replaces the earlier row."""

    job = models.ForeignKey(TrainingJob, on_delete=models.CASCADE, related_name="progress")
    step = models.PositiveIntegerField()
    epoch = models.FloatField(default=0)
    loss = models.FloatField(null=True)
    eval_loss = models.FloatField(null=True)
    learning_rate = models.FloatField(null=True)
    grad_norm = models.FloatField(null=True)
    tokens_per_second = models.FloatField(null=True)
    elapsed = models.FloatField(default=0)
    eta = models.FloatField(null=True)
    at = models.DateTimeField()

    class Meta:
        ordering = ["step"]
        constraints = [models.UniqueConstraint(fields=["job", "step"], name="one_progress_per_step")]
