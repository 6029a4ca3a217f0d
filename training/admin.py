"""Read-only operator pages of datasets and training jobs; uploads and new jobs go through REST."""

from collections.abc import Callable

from django.contrib import admin, messages
from django.template.defaultfilters import filesizeformat
from django.utils.html import format_html
from django.utils.translation import gettext_lazy as _
from unfold.decorators import action, display

from accounts.authentication import actor_for_user
from accounts.console import ReadOnlyAdmin
from core.errors import PlatformError
from training.jobs import chart, queue, services
from training.models import Dataset, JobState, TrainingJob

STATUS_COLOURS = {
    JobState.RUNNING: "info",
    JobState.COMPLETED: "success",
    JobState.FAILED: "danger",
    JobState.PAUSED: "warning",
}


@admin.register(Dataset)
class DatasetAdmin(ReadOnlyAdmin):
    list_display = ["name", "version", "tenant", "format", "rows", "show_size", "created_by", "created_at"]
    list_filter = ["tenant", "format"]
    search_fields = ["name", "sha256"]
    list_select_related = ["tenant", "created_by"]

    @display(description=_("Size"))
    def show_size(self, dataset):
        return filesizeformat(dataset.size_bytes)


@admin.register(TrainingJob)
class TrainingJobAdmin(ReadOnlyAdmin):
    list_display = [
        "id", "tenant", "base_name", "dataset_name", "adapter_name", "show_status", "show_steps", "show_loss", "node",
        "show_why", "created_at",
    ]  # fmt: skip
    list_filter = ["state", "tenant", "node"]
    search_fields = ["id", "base_name", "dataset_name", "adapter_name"]
    list_select_related = ["tenant", "node"]
    actions = ["pause_jobs", "resume_jobs", "cancel_jobs"]
    readonly_fields = ["show_status", "show_why", "show_steps", "show_curve", "show_lines"]
    fields = [
        "show_status", "show_why", "show_steps", "show_curve", "tenant", "created_by", "key", "base_model", "base_name",
        "dataset", "dataset_name", "dataset_version", "adapter_name", "recipe", "row_counts", "estimate", "state",
        "desired", "node", "generation", "running_generation", "placement", "launch", "pid", "epoch", "loss",
        "eval_loss", "learning_rate", "grad_norm", "tokens_per_second", "elapsed_seconds", "eta_seconds", "checkpoints",
        "crashes", "crashed_at_step", "failure_cause", "show_lines", "state_since", "queued_at", "started_at",
        "finished_at",
    ]  # fmt: skip

    @display(description=_("Status"), label=STATUS_COLOURS, ordering="state")
    def show_status(self, job):
        return job.status

    @display(description=_("Steps"))
    def show_steps(self, job):
        return f"{job.step} / {job.total_steps or '–'}"

    @display(description=_("Loss"), ordering="loss")
    def show_loss(self, job):
        return "–" if job.loss is None else f"{job.loss:.4g}"

    @display(description=_("Why it waits or failed"))
    def show_why(self, job):
        return queue.wait_reason(job) if job.is_waiting else job.failure_reason or "–"

    @display(description=_("Loss by step"))
    def show_curve(self, job):
        return chart.loss_curve(job.progress.all()) or "–"

    @display(description=_("Last lines"))
    def show_lines(self, job):
        return format_html("<pre>{}</pre>", "\n".join(job.log_tail))

    @action(description=_("Pause"), permissions=["view"])
    def pause_jobs(self, request, queryset):
        self._apply_to_jobs(request, queryset, services.pause)

    @action(description=_("Resume"), permissions=["view"])
    def resume_jobs(self, request, queryset):
        self._apply_to_jobs(request, queryset, services.resume)

    @action(description=_("Cancel"), permissions=["view"])
    def cancel_jobs(self, request, queryset):
        self._apply_to_jobs(request, queryset, services.cancel)

    def _apply_to_jobs(self, request, queryset, change: Callable) -> None:
        """The service writes the audit record."""
        for job in queryset:
            try:
                change(actor_for_user(request.user), job, request)
                self.message_user(request, f"{job}: {job.status}", messages.SUCCESS)
            except PlatformError as error:
                self.message_user(request, f"{job}: {error.message}", messages.ERROR)
