"""What the runner writes about a job: one conditional UPDATE each, so that a replaced agent changes nothing."""

import time
from collections.abc import Iterable
from datetime import UTC, datetime

from django.db import transaction
from django.db.models import QuerySet
from django.db.models.functions import Now

from inference import memory_ledger
from inference.models import Node, Use
from node_agent.reconciler import RowIdentity, owned_row
from training.jobs import transitions
from training.models import JobState, TrainingJob, TrainingProgress
from training.runner import checkpoints
from training.runner.progress_reader import TrainerEvent

STEP_FIELDS = ("epoch", "loss", "learning_rate", "grad_norm", "tokens_per_second")
USE_BY_STATE = {JobState.QUEUED: Use.RESERVED, JobState.RUNNING: Use.LOADING}  # of a job that holds devices
CLOCK_SLACK = 24 * 3600.0  # seconds that a trainer's clock may differ from ours


def identify(job: TrainingJob) -> RowIdentity:
    return RowIdentity(job.pk, job.tenant_id, job.state, job.running_generation)


@transaction.atomic
def move(job: TrainingJob, state: JobState, node: Node, **fields) -> bool:
    """Changes the state, with the use of its memory, and announces it to the tenant.

    False if the row's state or `desired` has changed meanwhile, or its node has a newer agent.
    """
    if not _write(job, _owned_row(job, node).filter(desired=job.desired), state=state, state_since=Now(), **fields):
        return False
    if use := USE_BY_STATE.get(state):
        memory_ledger.record_use(job.pk, use)
    transitions.announce(job)
    return True


@transaction.atomic
def save_events(job: TrainingJob, events: list[TrainerEvent], node: Node, elapsed_before: float) -> bool:
    """Saves the events since the last read. The first one also ends the loading of the job's claim in the ledger."""
    fields: dict = {}
    for event in events:
        fields |= _job_fields(event, elapsed_before)
    if not events or not _write(job, _owned_row(job, node), **fields):
        return False
    memory_ledger.record_use(job.pk, Use.IN_USE)
    _save_series(job, events, elapsed_before)
    transitions.announce(job)
    return True


def save_pid(job: TrainingJob, pid: int | None, node: Node) -> bool:
    return _write(job, _owned_row(job, node), pid=pid)


def save_checkpoint(job: TrainingJob, checkpoint: dict, node: Node) -> bool:
    return _write(job, _owned_row(job, node), checkpoints=checkpoints.add_entry(job.checkpoints, checkpoint))


def _owned_row(job: TrainingJob, node: Node) -> QuerySet[TrainingJob]:
    return owned_row(TrainingJob.objects.all(), identify(job), node)


def _write(job: TrainingJob, rows: QuerySet, **fields) -> bool:
    if not rows.update(updated_at=Now(), **fields):
        return False
    job.refresh_from_db()
    return True


def _job_fields(event: TrainerEvent, elapsed_before: float) -> dict:
    """The job's fields that an event sets."""
    if event.name == "evaluation":
        return {"eval_loss": event.number("loss")}
    if event.name not in ("start", "step"):
        return {}
    total = event.fields.get("total_steps")
    found: dict = {"step": event.step}
    if isinstance(total, int) and not isinstance(total, bool) and event.step <= total < 2**31:
        found["total_steps"] = total
    return found | (_step_fields(event, elapsed_before) if event.name == "step" else {})


def _step_fields(event: TrainerEvent, elapsed_before: float) -> dict:
    figures = {name: event.number(name) for name in STEP_FIELDS}
    elapsed = elapsed_before + (event.number("elapsed") or 0.0)
    return figures | {"epoch": figures["epoch"] or 0.0, "elapsed_seconds": elapsed, "eta_seconds": event.number("eta")}


def _save_series(job: TrainingJob, events: Iterable[TrainerEvent], elapsed_before: float) -> None:
    """A repeated step replaces the earlier row."""
    steps = {event.step: _step_row(job, event, elapsed_before) for event in events if event.name == "step"}
    measured = {event.step: _evaluation_row(job, event) for event in events if event.name == "evaluation"}
    _upsert(steps.values(), [*STEP_FIELDS, "elapsed", "eta", "at"])
    _upsert(measured.values(), ["eval_loss"])


def _step_row(job: TrainingJob, event: TrainerEvent, elapsed_before: float) -> TrainingProgress:
    figures = _step_fields(event, elapsed_before)
    elapsed, eta = figures.pop("elapsed_seconds"), figures.pop("eta_seconds")
    return TrainingProgress(job=job, step=event.step, elapsed=elapsed, eta=eta, at=_event_time(event), **figures)


def _evaluation_row(job: TrainingJob, event: TrainerEvent) -> TrainingProgress:
    return TrainingProgress(job=job, step=event.step, eval_loss=event.number("loss"), at=_event_time(event))


def _upsert(rows: Iterable[TrainingProgress], fields: list[str]) -> None:
    TrainingProgress.objects.bulk_create(
        rows, update_conflicts=True, unique_fields=["job", "step"], update_fields=fields
    )


def _event_time(event: TrainerEvent) -> datetime:
    reported, now = event.number("at"), time.time()
    return datetime.fromtimestamp(reported if reported and abs(reported - now) < CLOCK_SLACK else now, UTC)
