"""The state of a model's foremost instance, as each API names it."""

from dataclasses import dataclass

from inference.models import Instance, InstanceState


@dataclass(frozen=True)
class StatusLabels:
    """`status` and `health` are for the service API, `manager` and `engine` for the manager API and the engine API."""

    status: str
    health: str
    manager: str
    engine: str


NEVER_STARTED = StatusLabels("created", "unknown", "stopped", "not_loaded")
STARTING = StatusLabels("starting", "unknown", "starting", "loading")
STOPPED = StatusLabels("stopped", "unknown", "stopped", "not_loaded")
DEGRADED = StatusLabels("running", "unhealthy", "routing", "degraded")
LABELS = {
    InstanceState.PENDING: STARTING,
    InstanceState.STARTING: STARTING,
    InstanceState.READY: StatusLabels("running", "healthy", "routing", "ready"),
    InstanceState.DRAINING: StatusLabels("stopping", "healthy", "stopping", "unloading"),
    InstanceState.STOPPED: STOPPED,
    InstanceState.FAILED: StatusLabels("error", "unhealthy", "failed", "error"),
}


def labels_for(instance: Instance | None) -> StatusLabels:
    """The labels of a model by its foremost instance; None for a model that was never started."""
    if instance is None:
        return NEVER_STARTED
    if instance.state == InstanceState.READY and not instance.healthy:
        return DEGRADED
    return LABELS[InstanceState(instance.state)]
