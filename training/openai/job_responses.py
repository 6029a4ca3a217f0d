"""Renders training jobs as objects of OpenAI's fine-tuning API."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import chain, islice

from django.utils import timezone

from models_app.models import AdapterVersion
from training.jobs import row_counts
from training.models import JobState, TrainingJob, TrainingProgress

STATUS: dict[str, str] = {JobState.COMPLETED: "succeeded"}  # the other states have the same name
ENDED: dict[str, str] = {JobState.COMPLETED: "info", JobState.CANCELLED: "info", JobState.FAILED: "error"}
CREATED, STARTED, ROWS, FIRST_STEP = 0, 1, 2, 3
END = 2**31


def fine_tuned_models(jobs: Iterable[TrainingJob]) -> dict[str, str]:
    """Job id → model name of the adapter version that it made: for its creator, once published for its tenant."""
    versions = AdapterVersion.objects.filter(job_id__in=[job.pk for job in jobs]).select_related("adapter")
    return {version.job_id: f"{version.adapter.name}@{version.number}" for version in versions}


def render_job(job: TrainingJob, fine_tuned_model: str | None) -> dict:
    """Shows `learning_rate` instead of a multiplier: the recipe stores the resulting rate."""
    used = {
        "n_epochs": job.recipe["epochs"],
        "batch_size": job.recipe["batch_size"],
        "learning_rate": job.recipe["learning_rate"],
    }
    return {
        "id": job.pk,
        "object": "fine_tuning.job",
        "created_at": _unix_time(job.created_at),
        "finished_at": _unix_time(job.finished_at),
        "estimated_finish": _estimated_finish(job),
        "model": job.base_name,
        "fine_tuned_model": fine_tuned_model,
        "organization_id": job.tenant_id,
        "status": STATUS.get(job.status, str(job.status)),
        "error": _render_error(job),
        "training_file": job.dataset_id or "",
        "validation_file": None,
        "result_files": [],
        "trained_tokens": None,
        "seed": job.recipe["seed"],
        "hyperparameters": used,
        "method": {"type": "supervised", "supervised": {"hyperparameters": used}},
        "integrations": [],
        "user_provided_suffix": job.adapter_name,
    }


def checkpoints_before(job: TrainingJob, place: int) -> list[dict]:
    """Newest first. They are for resuming only and cannot be served, so they name no model."""
    steps = [checkpoint["step"] for checkpoint in reversed(job.checkpoints)]
    steps = [step for step in steps if FIRST_STEP + step < place]
    progress = {row.step: row for row in job.progress.filter(step__in=steps)}
    return [_render_checkpoint(job, step, progress.get(step)) for step in steps]


def _render_checkpoint(job: TrainingJob, step: int, progress: TrainingProgress | None) -> dict:
    metrics: dict[str, float | None] = {"step": step}
    if progress:
        metrics |= {"train_loss": progress.loss, "full_valid_loss": progress.eval_loss}
    return {
        "id": f"{job.pk}:{FIRST_STEP + step}",
        "object": "fine_tuning.job.checkpoint",
        "created_at": _unix_time(progress.at if progress else job.updated_at),
        "fine_tuning_job_id": job.pk,
        "fine_tuned_model_checkpoint": "",
        "step_number": step,
        "metrics": {name: value for name, value in metrics.items() if value is not None},
    }


@dataclass(frozen=True)
class FineTuningEvent:
    """`place` orders the events of a job; the job's id and `place` make the event's id."""

    place: int
    at: datetime
    message: str
    level: str = "info"
    data: dict | None = None

    def render(self, job: TrainingJob) -> dict:
        return {
            "id": f"{job.pk}:{self.place}",
            "object": "fine_tuning.job.event",
            "created_at": _unix_time(self.at),
            "level": self.level,
            "message": self.message,
            "type": "metrics" if self.data else "message",
            "data": self.data or {},
        }


def events_before(job: TrainingJob, place: int, count: int) -> list[dict]:
    """At most `count` events, newest first."""
    steps = job.progress.filter(step__lt=max(0, place - FIRST_STEP)).order_by("-step")[:count]
    found = chain(_end_event(job), (_step_event(job, row) for row in steps), _start_events(job))
    return [event.render(job) for event in islice((event for event in found if event.place < place), count)]


def _end_event(job: TrainingJob) -> Iterator[FineTuningEvent]:
    if job.status in ENDED:
        text = f"The job {STATUS.get(job.status, str(job.status))}. {job.failure_reason}".strip()
        yield FineTuningEvent(END, job.finished_at or job.state_since, text, ENDED[job.status])


def _step_event(job: TrainingJob, row: TrainingProgress) -> FineTuningEvent:
    data = {
        "step": row.step,
        "total_steps": job.total_steps,
        "train_loss": row.loss,
        "valid_loss": row.eval_loss,
        "learning_rate": row.learning_rate,
    }
    known = {name: value for name, value in data.items() if value is not None}
    of_total = f"/{job.total_steps}" if job.total_steps else ""
    loss = "" if row.loss is None else f": training loss={row.loss:.4f}"
    return FineTuningEvent(FIRST_STEP + row.step, row.at, f"Step {row.step}{of_total}{loss}", data=known)


def _start_events(job: TrainingJob) -> Iterator[FineTuningEvent]:
    if message := row_counts.event_message(job):
        yield FineTuningEvent(ROWS, job.started_at or job.created_at, message, "warn")
    if job.started_at:
        yield FineTuningEvent(STARTED, job.started_at, "The job has started.")
    yield FineTuningEvent(CREATED, job.created_at, f"Created fine-tuning job: {job.pk}")


def _render_error(job: TrainingJob) -> dict | None:
    if job.status != JobState.FAILED:
        return None
    return {"code": job.failure_cause or "unknown", "message": job.failure_reason, "param": None}


def _estimated_finish(job: TrainingJob) -> int | None:
    if job.status != JobState.RUNNING or job.eta_seconds is None:
        return None
    return _unix_time(timezone.now() + timedelta(seconds=job.eta_seconds))


def _unix_time(at: datetime | None) -> int | None:
    return None if at is None else int(at.timestamp())
