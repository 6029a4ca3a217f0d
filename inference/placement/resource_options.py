"""The ways to run a model: its profiles, or GPUs before main memory, each with what it takes there."""

from engines import registry
from engines.base import MIB, EngineAdapter
from inference.models import DeviceKind
from inference.placement import memory_peaks
from inference.placement.types import PlacementRequest, Way
from models_app import artefacts, profiles
from models_app.artefacts import Artefact
from models_app.models import Model
from models_app.profiles import Profile

SOURCES = FILES, PEAK, REQUIREMENTS = "files", "recorded peak", "resource_requirements"


def request_for(model: Model) -> PlacementRequest:
    """Raises EngineUnavailable for an unknown engine, InvalidRequest for files that cannot be started."""
    adapter = registry.get(model.framework)
    artefact = artefacts.check_startable(model)
    found = tuple(_way(model, adapter, artefact, profile) for profile in _profiles(model))
    return PlacementRequest(model.pk, found, model.priority)


def wants_gpus(model: Model) -> bool:
    """Whether it may run nowhere else."""
    return all(profile.device == DeviceKind.CUDA for profile in _profiles(model))


def _profiles(model: Model) -> list[Profile]:
    """The model's own, else one without a name for each kind of device that `gpu_count` leaves open."""
    if own := profiles.of(model):
        return own
    match model.resource_requirements.get("gpu_count"):
        case None:
            kinds = [DeviceKind.CUDA, DeviceKind.CPU]
        case 0:
            kinds = [DeviceKind.CPU]
        case _:
            kinds = [DeviceKind.CUDA]
    return [Profile(name="", device=kind.value) for kind in kinds]


def _way(model: Model, adapter: EngineAdapter, artefact: Artefact, profile: Profile) -> Way:
    """Figures of a profile go before those of the model, these before what was measured, that before an estimate."""
    shaped = profiles.applied(model, profile.name)
    estimate = adapter.estimate(shaped, artefact, profile.device)
    on_gpus = profile.device == DeviceKind.CUDA
    count = _gpu_count(shaped, profile) if on_gpus else 1
    digest = memory_peaks.digest(shaped, estimate, count)
    memory = (profile.memory or model.resource_requirements.get("memory") or 0) * MIB
    gpu_memory = (profile.gpu_memory or model.resource_requirements.get("gpu_memory") or 0) * MIB
    share, source = _share(gpu_memory if on_gpus else memory, memory_peaks.recorded(model, profile.device, digest))
    return Way(
        kind=profile.device,
        count=count,
        share=share or -(-estimate.total // count),
        estimate=estimate,
        source=source,
        profile=profile.name,
        main_memory=memory if on_gpus else 0,
        cores=model.resource_requirements.get("cpu_cores") or 0,
        node=profile.node,
        digest=digest,
    )


def _gpu_count(shaped: Model, profile: Profile) -> int:
    wished = profile.gpu_count or shaped.resource_requirements.get("gpu_count")
    return wished or shaped.config.get("tensor_parallel_size") or 1


def _share(wished: int, peak: int | None) -> tuple[int, str]:
    """Bytes on each device and where they are from; 0 where only the files tell."""
    if wished:
        return wished, REQUIREMENTS
    return (peak, PEAK) if peak else (0, FILES)
