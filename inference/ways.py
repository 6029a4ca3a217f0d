"""The ways to run a model: its profiles, or GPUs before main memory, each with what it takes there."""

from dataclasses import replace

from inference.engines import registry
from inference.engines.base import MIB, EngineAdapter
from inference.models import DeviceKind
from inference.placement.shapes import PlacementRequest, Way
from models_app import artefacts, profiles
from models_app.artefacts import Artefact
from models_app.models import Model
from models_app.profiles import Profile

SOURCES = FILES, PEAK, REQUIREMENTS = "files", "recorded peak", "resource_requirements"


def request_for(model: Model) -> PlacementRequest:
    """Raises EngineUnavailable for an unknown engine, InvalidRequest for files that cannot be started."""
    adapter = registry.get(model.framework)
    artefact = artefacts.check_startable(model)
    return PlacementRequest(model.pk, tuple(_way(model, adapter, artefact, profile) for profile in _profiles(model)))


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
    """Figures of a profile go before those of the model, these before an estimate."""
    shaped = profiles.applied(model, profile.name)
    estimate = adapter.estimate(shaped, artefact, profile.device)
    wishes = model.resource_requirements
    memory = (profile.memory or wishes.get("memory") or 0) * MIB
    bare = Way(
        kind=profile.device,
        count=1,
        share=estimate.total,
        estimate=estimate,
        source=FILES,
        profile=profile.name,
        cores=wishes.get("cpu_cores") or 0,
        node=profile.node,
    )
    if profile.device == DeviceKind.CPU:
        return replace(bare, share=memory, source=REQUIREMENTS) if memory else bare
    count = profile.gpu_count or wishes.get("gpu_count") or shaped.config.get("tensor_parallel_size") or 1
    spread = replace(bare, count=count, share=-(-estimate.total // count), main_memory=memory)
    wished = (profile.gpu_memory or wishes.get("gpu_memory") or 0) * MIB
    return replace(spread, share=wished, source=REQUIREMENTS) if wished else spread
