"""State changes of a training job by users and the queue: one conditional UPDATE each, with its event."""

from django.db import transaction
from django.db.models import F, QuerySet
from django.db.models.functions import Now

from core.events import publish_on_commit
from core.times import utc_timestamp
from training.jobs import row_counts
from training.models import DesiredJobState, JobState, TrainingJob

EVENT = "training_progress"
AFTER_LOSS: dict[str, tuple[JobState, dict[str, object]]] = {
    DesiredJobState.RUNNING: (JobState.QUEUED, {"generation": F("generation") + 1}),
    DesiredJobState.PAUSED: (JobState.PAUSED, {}),
    DesiredJobState.CANCELLED: (JobState.CANCELLED, {"finished_at": Now()}),
}


def pause(job: TrainingJob) -> bool:
    """At once if nothing runs; else the runner does it. False if the job's state does not allow it."""
    rows = TrainingJob.objects.filter(pk=job.pk)
    return _move(job, rows.waiting(), JobState.PAUSED, desired=DesiredJobState.PAUSED, waits={}) or _request(
        job, rows.placed().filter(desired=DesiredJobState.RUNNING), DesiredJobState.PAUSED
    )


def resume(job: TrainingJob) -> bool:
    """Queues the job again, or withdraws a pause that has not taken effect."""
    rows = TrainingJob.objects.filter(pk=job.pk)
    fields = {
        "desired": DesiredJobState.RUNNING,
        "generation": F("generation") + 1,
        "queued_at": Now(),
        "placement": {},
    }
    return _move(job, rows.filter(state=JobState.PAUSED), JobState.QUEUED, **fields) or _request(
        job, rows.placed().filter(desired=DesiredJobState.PAUSED), DesiredJobState.RUNNING
    )


def cancel(job: TrainingJob) -> bool:
    rows = TrainingJob.objects.filter(pk=job.pk)
    idle = rows.live().filter(node=None)
    return _move(
        job, idle, JobState.CANCELLED, desired=DesiredJobState.CANCELLED, waits={}, finished_at=Now()
    ) or _request(job, rows.placed().exclude(desired=DesiredJobState.CANCELLED), DesiredJobState.CANCELLED)


def place(job: TrainingJob, node_id: str, placement: dict) -> bool:
    """From the queue to a node, whose runner owns it from here on."""
    return _change(job, TrainingJob.objects.waiting(), node_id=node_id, placement=placement, waits={})


def reclaim(job: TrainingJob, lost: QuerySet) -> bool:
    """From a lost node, where it can no longer run; does what its runner was asked for. `lost` are all such jobs."""
    rows = lost.filter(node=job.node_id, desired=job.desired)
    state, fields = AFTER_LOSS[job.desired]
    unplaced: dict[str, object] = {"node": None, "placement": {}, "pid": None, "eta_seconds": None}
    return _move(job, rows, state, **unplaced, **fields)


def _move(job: TrainingJob, rows: QuerySet, state: JobState, **fields) -> bool:
    return _change(job, rows, state=state, state_since=Now(), **fields)


def _request(job: TrainingJob, rows: QuerySet, wish: DesiredJobState) -> bool:
    return _change(job, rows, desired=wish)


@transaction.atomic
def _change(job: TrainingJob, rows: QuerySet, **fields) -> bool:
    if not rows.filter(pk=job.pk).update(updated_at=Now(), **fields):
        return False
    job.refresh_from_db()
    announce(job)
    return True


def announce(job: TrainingJob) -> None:
    """Publishes the job's state to its tenant, with the row counts of its trainer."""
    row_counts.adopt_trainer_counts(job)
    publish_on_commit(job.tenant_id, EVENT, event_data(job), key=job.pk, model=job.base_model_id or "")


def event_data(job: TrainingJob) -> dict:
    return {
        "job_id": job.pk,
        "status": job.status,
        "step": job.step,
        "total_steps": job.total_steps,
        "epoch": job.epoch,
        "loss": job.loss,
        "eval_loss": job.eval_loss,
        "learning_rate": job.learning_rate,
        "grad_norm": job.grad_norm,
        "tokens_per_second": job.tokens_per_second,
        "elapsed_seconds": job.elapsed_seconds,
        "eta_seconds": job.eta_seconds,
        "rows_cut": job.rows_cut,
        "rows_left_out": job.rows_left_out,
        "timestamp": utc_timestamp(),
    }
