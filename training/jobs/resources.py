"""The device memory that a job needs, and whether any device here could ever hold it."""

from dataclasses import asdict
from datetime import timedelta

from django.conf import settings
from django.db.models.functions import Now

from core.errors import InsufficientResources
from core.units import MIB
from engines.base import MemoryEstimate
from inference.models import Device, DeviceKind
from inference.placement import cluster_view, reason_messages
from inference.placement.fit import could_ever_fit
from inference.placement.types import DeviceView, ResourceOption
from training import base_models
from training.base_models import BaseModelInfo
from training.jobs import estimate as memory
from training.jobs.recipe import Hyperparameters

DEVICE_KINDS = (DeviceKind.CUDA, DeviceKind.CPU)  # best first


def estimate(base: BaseModelInfo, recipe: Hyperparameters, data_bytes: int) -> dict[str, dict[str, int]]:
    """Device kind → bytes by part, with their `total`."""
    found = {
        kind.value: memory.estimate(base.parameters, base.shape, recipe, kind, data_bytes=data_bytes)
        for kind in DEVICE_KINDS
    }
    return {kind: {**asdict(parts), "total": parts.total} for kind, parts in found.items()}


def devices() -> list[DeviceView]:
    """Those of nodes that share this data folder, where the datasets are; not stale ones."""
    fresh = Now() - timedelta(seconds=settings.ENGINE_LEASE_SECONDS)
    sharing = Device.objects.filter(node__data_folder=str(settings.DATA_DIR)).exclude(measured_at__lt=fresh)
    ids = set(sharing.values_list("pk", flat=True))
    return [device for device in cluster_view.device_views(base_models.ENGINE) if device.id in ids]


def resource_options(estimate: dict[str, dict[str, int]], known: list[DeviceView]) -> tuple[ResourceOption, ...]:
    """GPUs only, if one could ever hold it: waiting for one is faster than training on a CPU."""
    found = [_option(kind, estimate[kind]) for kind in DEVICE_KINDS]
    able = [option for option in found if could_ever_fit(option, known)]
    return tuple(able[:1] or found)


def _option(kind: str, parts: dict[str, int]) -> ResourceOption:
    overhead = parts["total"] - parts["weights"]
    return ResourceOption(
        kind=kind, count=1, share=parts["total"], estimate=MemoryEstimate(parts["weights"], overhead, 0)
    )


def require_possible(estimate: dict[str, dict[str, int]]) -> None:
    """Raises InsufficientResources with the sizes; passes while no device is known."""
    known = devices()
    options = [_option(kind, estimate[kind]) for kind in DEVICE_KINDS]
    if known and not any(could_ever_fit(option, known) for option in options):
        smallest = min(option.share for option in options)
        raise InsufficientResources(reason_messages.too_big_message(smallest), details=_sizes(options, known))


def _sizes(options: list[ResourceOption], known: list[DeviceView]) -> dict[str, int]:
    """MiB needed, and usable on the largest device, by device kind."""
    sizes = {}
    for option in options:
        if usable := [device.usable for device in known if device.kind == option.kind]:
            sizes[f"{option.kind}_needed_mib"] = -(-option.share // MIB)
            sizes[f"{option.kind}_usable_mib"] = max(usable) // MIB
    return sizes
