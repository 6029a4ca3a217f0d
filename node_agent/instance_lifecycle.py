"""Decides what the agent does next for one instance: a pure function of its row and of what was observed."""

from dataclasses import dataclass
from enum import Enum

from inference.models import Desired, Instance, InstanceState
from node_agent.process_tree import ProcessStatus
from node_agent.reconciler import Observation

HANG_TIMEOUT = 120  # a busy engine answers its health probe late; only a hung one never does
ENGINE_DRAIN_TIMEOUT = 10  # seconds for an engine to finish requests that no gateway waits for


@dataclass(frozen=True)
class InstanceFacts:
    """What is observed of an instance besides its process tree, times in seconds."""

    healthy: bool | None = None
    unhealthy_for: float = 0.0
    in_state_for: float = 0.0
    let_go_for: float | None = None  # how long no gateway has used it; None while one does
    engine_busy: bool = False  # by its own request count; also if it was not probed since the drain began
    idle: float | None = None  # of its model; None while requests are in flight
    idle_timeout: int = 0  # 0 for never
    may_launch: bool = True


InstanceObservation = Observation[Instance, InstanceFacts]


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


def decide(seen: InstanceObservation) -> InstanceStep:
    """The one next step."""
    match seen.row.state:
        case InstanceState.PENDING:
            return _pending(seen)
        case InstanceState.STARTING:
            return _starting(seen)
        case InstanceState.READY:
            return _ready(seen)
        case InstanceState.DRAINING:
            return _draining(seen)
    return InstanceStep.WAIT


def _wanted(instance: Instance) -> bool:
    """Whether the existing run is still the requested one."""
    return instance.desired == Desired.RUNNING and instance.generation == instance.running_generation


def _has_ended(seen: InstanceObservation) -> bool:
    return seen.process in (ProcessStatus.EXITED, ProcessStatus.NONE)


def _pending(seen: InstanceObservation) -> InstanceStep:
    if seen.row.desired == Desired.STOPPED:
        return InstanceStep.STOPPED
    if seen.process in (ProcessStatus.RUNNING, ProcessStatus.LOST):
        return InstanceStep.SWEEP  # an earlier run has not ended yet
    return InstanceStep.LAUNCH if seen.facts.may_launch else InstanceStep.WAIT


def _starting(seen: InstanceObservation) -> InstanceStep:
    if seen.process == ProcessStatus.LOST:
        return InstanceStep.SWEEP
    if _has_ended(seen):
        if not _wanted(seen.row):
            return _after_end(seen.row)
        was_killed = seen.shim is None or seen.shim.signal and seen.shim.reason != "stop"  # a stop is our own
        return InstanceStep.CRASHED if was_killed else InstanceStep.FAILED
    if not _wanted(seen.row):
        return InstanceStep.END
    if seen.facts.healthy:
        return InstanceStep.READY
    return InstanceStep.TIMED_OUT if seen.facts.in_state_for > seen.row.start_timeout else InstanceStep.WAIT


def _ready(seen: InstanceObservation) -> InstanceStep:
    instance, facts = seen.row, seen.facts
    if seen.process == ProcessStatus.LOST:
        return InstanceStep.SWEEP
    if _has_ended(seen):
        return InstanceStep.CRASHED if _wanted(instance) else _after_end(instance)
    if not _wanted(instance):
        return InstanceStep.DRAIN
    if facts.unhealthy_for > HANG_TIMEOUT:
        return InstanceStep.END
    if facts.idle_timeout and facts.idle is not None and facts.idle > facts.idle_timeout:
        return InstanceStep.UNLOAD
    if facts.healthy is not None and facts.healthy != instance.healthy:
        return InstanceStep.HEALTH
    return InstanceStep.WAIT


def _draining(seen: InstanceObservation) -> InstanceStep:
    if seen.process == ProcessStatus.LOST:
        return InstanceStep.SWEEP
    if _has_ended(seen):
        return _after_end(seen.row)
    if seen.row.force_stop or _drained(seen.facts) or seen.facts.in_state_for > seen.row.stop_timeout:
        return InstanceStep.END
    return InstanceStep.WAIT


def _drained(facts: InstanceFacts) -> bool:
    """The engine's own count may lag when its last request was cancelled, so the wait for it is limited."""
    return facts.let_go_for is not None and (not facts.engine_busy or facts.let_go_for > ENGINE_DRAIN_TIMEOUT)


def _after_end(instance: Instance) -> InstanceStep:
    again = instance.desired == Desired.RUNNING and instance.generation > instance.running_generation
    return InstanceStep.AGAIN if again else InstanceStep.STOPPED
