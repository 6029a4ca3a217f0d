"""What a job takes of a device, and whether any device here could ever hold it."""

from dataclasses import asdict
from datetime import timedelta

from django.conf import settings
from django.db.models.functions import Now

from core.errors import InsufficientResources
from engines.base import MIB, Estimate
from inference.models import Device, DeviceKind
from inference.placement import cluster_view, reason_messages
from inference.placement.fit import possible
from inference.placement.types import DeviceView, Way
from training.base_models import Base
from training.jobs import estimate as training
from training.jobs.recipe import Recipe

ENGINE = "vllm"  # whose environment has what the trainer imports
KINDS = (DeviceKind.CUDA, DeviceKind.CPU)  # the best first


def estimate(base: Base, recipe: Recipe, data_bytes: int) -> dict[str, dict[str, int]]:
    """Kind of device → bytes by part, with their `total`."""
    found = {
        kind.value: training.estimate(base.parameters, base.shape, recipe, kind, data_bytes=data_bytes)
        for kind in KINDS
    }
    return {kind: {**asdict(each), "total": each.total} for kind, each in found.items()}


def devices() -> list[DeviceView]:
    """Those of machines that read the data folder in which data sets lie; not what nobody has seen for long."""
    long = timedelta(seconds=settings.ENGINE_LEASE_SECONDS)
    sharing = Device.objects.filter(node__data_folder=str(settings.DATA_DIR)).exclude(measured_at__lt=Now() - long)
    ids = set(sharing.values_list("pk", flat=True))
    return [device for device in cluster_view.devices_for(ENGINE) if device.id in ids]


def ways(estimate: dict[str, dict[str, int]], there: list[DeviceView]) -> tuple[Way, ...]:
    """GPUs only, if one could ever hold it: to wait for one is sooner than to train on a CPU."""
    found = [_way(kind, estimate[kind]) for kind in KINDS]
    able = [way for way in found if possible(way, there)]
    return tuple(able[:1] or found)


def _way(kind: str, parts: dict[str, int]) -> Way:
    besides = parts["total"] - parts["weights"]
    return Way(kind=kind, count=1, share=parts["total"], estimate=Estimate(parts["weights"], besides, 0))


def require_possible(estimate: dict[str, dict[str, int]]) -> None:
    """Raises InsufficientResources with the figures; without any machine nobody can tell yet."""
    there = devices()
    found = [_way(kind, estimate[kind]) for kind in KINDS]
    if there and not any(possible(way, there) for way in found):
        raise InsufficientResources(
            reason_messages.too_big(min(way.share for way in found)), details=_figures(found, there)
        )


def _figures(found: list[Way], there: list[DeviceView]) -> dict[str, int]:
    """MiB of the largest device of each kind that there is."""
    figures = {}
    for way in found:
        if sizes := [device.usable for device in there if device.kind == way.kind]:
            figures[f"{way.kind}_needed_mib"] = -(-way.share // MIB)
            figures[f"{way.kind}_usable_mib"] = max(sizes) // MIB
    return figures
