"""The options to run a model, with the memory of each: its profiles, or else GPUs first and then main memory."""

from core.units import MIB
from engines import registry
from engines.base import Engine
from inference.models import DeviceKind
from inference.placement import memory_peaks
from inference.placement.types import PlacementRequest, ResourceOption
from models_app import artefacts, profiles
from models_app.artefacts import Artefact
from models_app.models import Model
from models_app.profiles import Profile

SOURCES = FILES, PEAK, REQUIREMENTS = "files", "recorded peak", "resource_requirements"


def placement_request(model: Model) -> PlacementRequest:
    """Raises EngineUnavailable for an unknown engine, InvalidRequest for model files that cannot be run."""
    engine = registry.get(model.framework)
    artefact = artefacts.check_startable(model)
    options = tuple(_option(model, engine, artefact, profile) for profile in _profiles(model))
    return PlacementRequest(model.pk, options, model.priority)


def requires_gpus(model: Model) -> bool:
    """Whether the model may run on GPUs only."""
    return all(profile.device == DeviceKind.CUDA for profile in _profiles(model))


def _profiles(model: Model) -> list[Profile]:
    """The model's own profiles, else an unnamed one for each kind of device that `gpu_count` allows."""
    if own := profiles.profiles_of(model):
        return own
    match model.resource_requirements.get("gpu_count"):
        case None:
            kinds = [DeviceKind.CUDA, DeviceKind.CPU]
        case 0:
            kinds = [DeviceKind.CPU]
        case _:
            kinds = [DeviceKind.CUDA]
    return [Profile(name="", device=kind.value) for kind in kinds]


def _option(model: Model, engine: Engine, artefact: Artefact, profile: Profile) -> ResourceOption:
    """Memory comes from the first of these that has it: the profile, the model, the recorded peak, the estimate."""
    configured = profiles.with_profile(model, profile.name)
    estimate = engine.estimate(configured, artefact, profile.device)
    on_gpus = profile.device == DeviceKind.CUDA
    count = _gpu_count(configured, profile) if on_gpus else 1
    digest = memory_peaks.configuration_digest(configured, estimate, count)
    memory = (profile.memory or model.resource_requirements.get("memory") or 0) * MIB
    gpu_memory = (profile.gpu_memory or model.resource_requirements.get("gpu_memory") or 0) * MIB
    share, source = _share(gpu_memory if on_gpus else memory, memory_peaks.recorded_peak(model, profile.device, digest))
    return ResourceOption(
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


def _gpu_count(configured: Model, profile: Profile) -> int:
    required = profile.gpu_count or configured.resource_requirements.get("gpu_count")
    return required or configured.config.get("tensor_parallel_size") or 1


def _share(required: int, peak: int | None) -> tuple[int, str]:
    """Bytes on each device and their source; 0 if they must be estimated from the files."""
    if required:
        return required, REQUIREMENTS
    return (peak, PEAK) if peak else (0, FILES)
