"""The state of a model's foremost instance, as each API names it."""

from dataclasses import dataclass

from inference.models import Instance, State


@dataclass(frozen=True)
class Word:
    """`status` and `health` are for the service API, `manager` and `engine` for the manager API and the engine API."""

    status: str
    health: str
    manager: str
    engine: str


NEVER_STARTED = Word("created", "unknown", "stopped", "not_loaded")
STARTING = Word("starting", "unknown", "starting", "loading")
STOPPED = Word("stopped", "unknown", "stopped", "not_loaded")
DEGRADED = Word("running", "unhealthy", "routing", "degraded")
WORDS = {
    State.PENDING: STARTING,
    State.STARTING: STARTING,
    State.READY: Word("running", "healthy", "routing", "ready"),
    State.DRAINING: Word("stopping", "healthy", "stopping", "unloading"),
    State.STOPPED: STOPPED,
    State.FAILED: Word("error", "unhealthy", "failed", "error"),
}


def word(instance: Instance | None) -> Word:
    """The labels of a model by its foremost instance; None for a model that was never started."""
    if instance is None:
        return NEVER_STARTED
    if instance.state == State.READY and not instance.healthy:
        return DEGRADED
    return WORDS[instance.state]
