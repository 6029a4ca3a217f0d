"""Decides what the agent does next for one instance: a pure function of its row and of what was observed."""

from dataclasses import dataclass
from enum import Enum

from inference.models import Desired, Instance, InstanceState

MAX_CRASHES = 3
HANG_TIMEOUT = 120  # a busy engine answers its health probe late; only a hung one never does
ENGINE_DRAIN_TIMEOUT = 10  # seconds for an engine to finish requests that no gateway waits for
KILL_SLACK = 10  # seconds that a shim gets after the engine's own grace period


class ProcessStatus(Enum):
    NONE = "none"  # no run of this generation was started, or no trace of it is left
    RUNNING = "running"
    EXITED = "exited"  # the shim has recorded its exit
    LOST = "lost"  # the shim itself is gone


@dataclass(frozen=True)
class InstanceObservation:
    """One observation of an instance, times in seconds. `idle` is its model's, None while requests are in flight."""

    process: ProcessStatus
    killed_by_signal: bool = False
    healthy: bool | None = None
    unhealthy_for: float = 0.0
    in_state_for: float = 0.0
    let_go_for: float | None = None  # how long no gateway has used it; None while one does
    engine_busy: bool = False  # by its own request count; also if it was not probed since the drain began
    idle: float | None = None
    may_launch: bool = True


class InstanceStep(Enum):
    WAIT = "wait"
    LAUNCH = "launch"
    READY = "ready"
    HEALTH = "health"  # only the health flag changes
    DRAIN = "drain"
    UNLOAD = "unload"  # idle: drain, and set `desired` to stopped
    END = "end"  # request the shim to stop the tree
    SWEEP = "sweep"  # kill processes that have no shim any more
    STOPPED = "stopped"
    AGAIN = "again"  # start the next generation
    CRASHED = "crashed"
    FAILED = "failed"
    TIMED_OUT = "timed out"


def decide(instance: Instance, seen: InstanceObservation, idle_timeout: int) -> InstanceStep:
    """The one next step. `idle_timeout` is in seconds, 0 for never."""
    match instance.state:
        case InstanceState.PENDING:
            return _pending(instance, seen)
        case InstanceState.STARTING:
            return _starting(instance, seen)
        case InstanceState.READY:
            return _ready(instance, seen, idle_timeout)
        case InstanceState.DRAINING:
            return _draining(instance, seen)
    return InstanceStep.WAIT


def _wanted(instance: Instance) -> bool:
    """Whether the existing run is still the requested one."""
    return instance.desired == Desired.RUNNING and instance.generation == instance.running_generation


def _pending(instance: Instance, seen: InstanceObservation) -> InstanceStep:
    if instance.desired == Desired.STOPPED:
        return InstanceStep.STOPPED
    if seen.process in (ProcessStatus.RUNNING, ProcessStatus.LOST):
        return InstanceStep.SWEEP  # an earlier run has not ended yet
    return InstanceStep.LAUNCH if seen.may_launch else InstanceStep.WAIT


def _starting(instance: Instance, seen: InstanceObservation) -> InstanceStep:
    if seen.process == ProcessStatus.LOST:
        return InstanceStep.SWEEP
    if seen.process in (ProcessStatus.EXITED, ProcessStatus.NONE):
        if not _wanted(instance):
            return _after_end(instance)
        return (
            InstanceStep.CRASHED if seen.killed_by_signal or seen.process == ProcessStatus.NONE else InstanceStep.FAILED
        )
    if not _wanted(instance):
        return InstanceStep.END
    if seen.healthy:
        return InstanceStep.READY
    return InstanceStep.TIMED_OUT if seen.in_state_for > instance.start_timeout else InstanceStep.WAIT


def _ready(instance: Instance, seen: InstanceObservation, idle_timeout: int) -> InstanceStep:
    if seen.process == ProcessStatus.LOST:
        return InstanceStep.SWEEP
    if seen.process in (ProcessStatus.EXITED, ProcessStatus.NONE):
        return InstanceStep.CRASHED if _wanted(instance) else _after_end(instance)
    if not _wanted(instance):
        return InstanceStep.DRAIN
    if seen.unhealthy_for > HANG_TIMEOUT:
        return InstanceStep.END
    if idle_timeout and seen.idle is not None and seen.idle > idle_timeout:
        return InstanceStep.UNLOAD
    if seen.healthy is not None and seen.healthy != instance.healthy:
        return InstanceStep.HEALTH
    return InstanceStep.WAIT


def _draining(instance: Instance, seen: InstanceObservation) -> InstanceStep:
    if seen.process == ProcessStatus.LOST:
        return InstanceStep.SWEEP
    if seen.process in (ProcessStatus.EXITED, ProcessStatus.NONE):
        return _after_end(instance)
    if instance.force_stop or _drained(seen) or seen.in_state_for > instance.stop_timeout:
        return InstanceStep.END
    return InstanceStep.WAIT


def _drained(seen: InstanceObservation) -> bool:
    """The engine's own count may lag when its last request was cancelled, so the wait for it is limited."""
    return seen.let_go_for is not None and (not seen.engine_busy or seen.let_go_for > ENGINE_DRAIN_TIMEOUT)


def _after_end(instance: Instance) -> InstanceStep:
    again = instance.desired == Desired.RUNNING and instance.generation > instance.running_generation
    return InstanceStep.AGAIN if again else InstanceStep.STOPPED
