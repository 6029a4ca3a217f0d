"""Decides what the runner does next for one job: a pure function of its row and of what was observed."""

from dataclasses import dataclass
from enum import Enum

from node_agent.process_tree import ProcessStatus
from node_agent.reconciler import Observation
from training.models import DesiredJobState, JobState, TrainingJob
from training.runner.run import TrainingRun

REFUSED, STOPPED = 2, 3  # exit codes of the trainer
REQUESTED_ENDS = ("stop", "lease", "supervisor")  # why a shim ended its tree on request


@dataclass(frozen=True)
class JobFacts:
    """What is observed of a job besides its process tree."""

    run: TrainingRun
    all_read: bool = True  # all its events are read
    finished: bool = False  # it reported a complete adapter
    refused: bool = False  # it reported an error that a retry cannot fix
    may_launch: bool = True


JobObservation = Observation[TrainingJob, JobFacts]


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


def decide(seen: JobObservation) -> JobStep:
    """The next step of a job that is placed on this node."""
    job = seen.row
    if seen.process == ProcessStatus.LOST:
        return JobStep.SWEEP
    if job.state == JobState.QUEUED:
        return _queued(seen)
    if job.state != JobState.RUNNING:
        return JobStep.WAIT
    if seen.process == ProcessStatus.RUNNING:
        return JobStep.WAIT if job.desired == DesiredJobState.RUNNING else JobStep.END
    return _ended(seen) if seen.facts.all_read else JobStep.WAIT


def count_crashes(job: TrainingJob) -> int:
    """Consecutive crashes, this one included. Progress since the last one resets the count."""
    is_further = job.crashed_at_step is None or job.step > job.crashed_at_step
    return 1 if is_further else job.crashes + 1


def _queued(seen: JobObservation) -> JobStep:
    if seen.process == ProcessStatus.RUNNING:
        return JobStep.SWEEP  # an earlier run has not ended yet
    if seen.row.desired != DesiredJobState.RUNNING:
        return JobStep.CANCELLED if seen.row.desired == DesiredJobState.CANCELLED else JobStep.PAUSED
    return JobStep.LAUNCH if seen.facts.may_launch else JobStep.WAIT


def _ended(seen: JobObservation) -> JobStep:
    """An accepted cancel is final; a pause has no effect on a run that has finished or was refused."""
    job, facts, shim = seen.row, seen.facts, seen.shim
    if job.desired == DesiredJobState.CANCELLED:
        return JobStep.CANCELLED
    if facts.finished:
        return JobStep.COMPLETED
    if facts.refused or shim and shim.exit_code == REFUSED:
        return JobStep.FAILED
    if job.desired == DesiredJobState.PAUSED:
        return JobStep.PAUSED
    if shim and (shim.exit_code == STOPPED or shim.reason in REQUESTED_ENDS):
        return JobStep.AGAIN
    return JobStep.CRASHED
