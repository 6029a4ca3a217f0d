"""What the runner does next for one job: a pure function of what should be and what is there."""

from dataclasses import dataclass
from enum import Enum

from node_agent.decide import Process
from training.models import JobState, TrainingJob, Wish

MAX_CRASHES = 3  # without a step forward between them
BACK_OFF = (0, 10)  # seconds before the start after the first and the second crash
REFUSED, STOPPED = 2, 3  # exit codes of the trainer
OURS = ("stop", "lease", "supervisor")  # why a shim ended its tree at somebody's wish


@dataclass(frozen=True)
class Seen:
    """One look at a job's run."""

    process: Process
    exit_code: int | None = None
    ended_by: str | None = None  # why the shim ended it: exit, error, or one of OURS
    all_read: bool = True  # nothing of what it told is left to be read
    finished: bool = False  # it told that its adapter is whole
    refused: bool = False  # it told of an error that a retry will not cure
    may_launch: bool = True


class Step(Enum):
    WAIT = "wait"
    LAUNCH = "launch"
    END = "end"  # ask the shim to stop the trainer, which leaves a checkpoint
    SWEEP = "sweep"  # kill what is left without a shim
    AGAIN = "again"  # the next generation goes on from the last checkpoint
    CRASHED = "crashed"
    COMPLETED = "completed"
    PAUSED = "paused"
    CANCELLED = "cancelled"
    FAILED = "failed"


def decide(job: TrainingJob, seen: Seen) -> Step:
    """The one next step of a job that has been placed on this node."""
    if seen.process == Process.LOST:
        return Step.SWEEP
    if job.state == JobState.QUEUED:
        return _queued(job, seen)
    if job.state != JobState.RUNNING:
        return Step.WAIT
    if seen.process == Process.RUNNING:
        return Step.WAIT if job.desired == Wish.RUNNING else Step.END
    return _ended(job, seen) if seen.all_read else Step.WAIT


def crashes_now(job: TrainingJob) -> int:
    """With this one. Whoever came further than at the last crash has a clean slate."""
    is_further = job.crashed_at_step is None or job.step > job.crashed_at_step
    return 1 if is_further else job.crashes + 1


def _queued(job: TrainingJob, seen: Seen) -> Step:
    if seen.process == Process.RUNNING:
        return Step.SWEEP  # an earlier run is not gone yet
    if job.desired != Wish.RUNNING:
        return _as_asked(job)
    return Step.LAUNCH if seen.may_launch else Step.WAIT


def _ended(job: TrainingJob, seen: Seen) -> Step:
    """A cancel that was accepted is final; a pause comes too late for what is done or cannot be done."""
    if job.desired == Wish.CANCELLED:
        return Step.CANCELLED
    if seen.finished:
        return Step.COMPLETED
    if seen.refused:
        return Step.FAILED
    if job.desired == Wish.PAUSED:
        return Step.PAUSED
    if seen.exit_code == STOPPED or seen.ended_by in OURS:
        return Step.AGAIN
    return Step.CRASHED


def _as_asked(job: TrainingJob) -> Step:
    return Step.CANCELLED if job.desired == Wish.CANCELLED else Step.PAUSED
