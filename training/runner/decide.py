"""What the runner does next for one job: a pure function of the wanted and the observed state."""

from dataclasses import dataclass
from enum import Enum

from node_agent.decide import ProcessStatus
from training.models import DesiredJobState, JobState, TrainingJob

MAX_CRASHES = 3  # without progress between them
BACK_OFF = (0, 10)  # seconds before the start after the first and the second crash
REFUSED, STOPPED = 2, 3  # exit codes of the trainer
REQUESTED_ENDS = ("stop", "lease", "supervisor")  # why a shim ended its tree on request


@dataclass(frozen=True)
class JobObservation:
    """One observation of a job's run."""

    process: ProcessStatus
    exit_code: int | None = None
    ended_by: str | None = None  # why the shim ended it: exit, error, or one of OURS
    all_read: bool = True  # all its events are read
    finished: bool = False  # it reported a complete adapter
    refused: bool = False  # it reported an error that a retry cannot fix
    may_launch: bool = True


class JobStep(Enum):
    WAIT = "wait"
    LAUNCH = "launch"
    END = "end"  # ask the shim to stop the trainer, which leaves a checkpoint
    SWEEP = "sweep"  # kill processes that are left without a shim
    AGAIN = "again"  # the next generation resumes from the last checkpoint
    CRASHED = "crashed"
    COMPLETED = "completed"
    PAUSED = "paused"
    CANCELLED = "cancelled"
    FAILED = "failed"


def decide(job: TrainingJob, seen: JobObservation) -> JobStep:
    """The next step of a job that is placed on this node."""
    if seen.process == ProcessStatus.LOST:
        return JobStep.SWEEP
    if job.state == JobState.QUEUED:
        return _queued(job, seen)
    if job.state != JobState.RUNNING:
        return JobStep.WAIT
    if seen.process == ProcessStatus.RUNNING:
        return JobStep.WAIT if job.desired == DesiredJobState.RUNNING else JobStep.END
    return _ended(job, seen) if seen.all_read else JobStep.WAIT


def count_crashes(job: TrainingJob) -> int:
    """Consecutive crashes, this one included. Progress since the last one resets the count."""
    is_further = job.crashed_at_step is None or job.step > job.crashed_at_step
    return 1 if is_further else job.crashes + 1


def _queued(job: TrainingJob, seen: JobObservation) -> JobStep:
    if seen.process == ProcessStatus.RUNNING:
        return JobStep.SWEEP  # an earlier run has not ended yet
    if job.desired != DesiredJobState.RUNNING:
        return _requested_end(job)
    return JobStep.LAUNCH if seen.may_launch else JobStep.WAIT


def _ended(job: TrainingJob, seen: JobObservation) -> JobStep:
    """An accepted cancel is final; a pause has no effect on a run that has finished or was refused."""
    if job.desired == DesiredJobState.CANCELLED:
        return JobStep.CANCELLED
    if seen.finished:
        return JobStep.COMPLETED
    if seen.refused:
        return JobStep.FAILED
    if job.desired == DesiredJobState.PAUSED:
        return JobStep.PAUSED
    if seen.exit_code == STOPPED or seen.ended_by in REQUESTED_ENDS:
        return JobStep.AGAIN
    return JobStep.CRASHED


def _requested_end(job: TrainingJob) -> JobStep:
    return JobStep.CANCELLED if job.desired == DesiredJobState.CANCELLED else JobStep.PAUSED
