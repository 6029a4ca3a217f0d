"""An engine as a process tree under the shim: what is launched for an instance, and what is known of its end."""

from django.conf import settings

from core.logs import redact
from inference.agent import folders, shims
from inference.engines import fetching, registry
from inference.engines.base import Command, Estimate, LaunchRequest
from inference.models import Instance
from models_app import artefacts, packaged, profiles

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
    missing = None if artefact.path.exists() else packaged.at(artefact.path)
    return fetching.before(command, missing) if missing else command


def adapter_fields(instance: Instance) -> dict:
    """What adapters the run takes that is started now; a new run has none loaded."""
    model = profiles.applied(instance.model, instance.profile)
    limits = registry.get(model.framework).adapter_limits(model)
    slots, rank = (limits.slots, limits.rank) if limits else (0, 0)
    return {"adapters": {}, "adapter_slots": slots, "adapter_rank": rank}


def launch(instance: Instance, command: Command, cluster: str) -> shims.ShimState:
    """Start the shim; it returns when the engine's process exists. Raises OSError or shims.LaunchFailed."""
    folder = folders.folder_of(instance.pk)
    folder.mkdir(mode=0o700, exist_ok=True)
    folders.socket_of(instance.pk).unlink(missing_ok=True)  # a killed engine's: not every engine replaces it
    return shims.launch(
        folder,
        shims.Spec(
            cluster=cluster,
            data_folder=str(settings.DATA_DIR),
            instance=instance.pk,
            generation=instance.running_generation,
            argv=command.argv,
            env=command.env | _session(),
            cwd=str(folder),
            drop_privileges=True,
            log_bytes=LOG_BYTES,
            log_files=LOG_FILES,
            stop_grace=STOP_GRACE,
            **_lifetime(),
        ),
    )


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
