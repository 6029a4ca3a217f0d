"""Checks a model's resource requirements: refuses those that no known machine could ever meet, and names the limit."""

from collections.abc import Iterator

from django.utils.translation import gettext as _

from core.errors import InvalidRequest
from core.units import MIB
from inference.models import DeviceKind
from inference.placement import resource_options
from inference.placement.fit import group_by_node
from inference.placement.types import DeviceView
from models_app.models import Model


def check_requirements(model: Model, devices: list[DeviceView]) -> list[str]:
    """Returns warnings. Raises InvalidRequest with each field that asks for too much and the maximum; memory in MiB."""
    limits = _limits(devices)
    errors = {}
    for field, name, wanted in _requirements(model):
        if name in limits and wanted > limits[name]:
            message = _("%(wanted)s is more than any machine here has: %(most)s.")
            errors[field] = message % {"wanted": wanted, "most": limits[name]}
    if errors:
        raise InvalidRequest(details=errors)
    if devices and "gpu_count" not in limits and resource_options.requires_gpus(model):
        return [_("The model asks for GPUs, and no machine has one: it cannot start until one does.")]
    return []


def _requirements(model: Model) -> Iterator[tuple[str, str, float]]:
    """Yields (field, name, value) of each explicit requirement."""
    for name, wanted in model.resource_requirements.items():
        yield f"resource_requirements.{name}", name, wanted
    for number, profile in enumerate(model.profiles):
        for name in ("gpu_count", "gpu_memory", "memory"):
            if name in profile:
                yield f"profiles.{number}.{name}", name, profile[name]
    if "kv_cache_bytes" in model.config:
        yield "config.kv_cache_bytes", "kv_cache_bytes", model.config["kv_cache_bytes"]


def _limits(devices: list[DeviceView]) -> dict[str, float]:
    """Name → the largest value that any machine has; without names that no machine has."""
    gpus = [device for device in devices if device.kind == DeviceKind.CUDA]
    processors = [device for device in devices if device.kind == DeviceKind.CPU]
    limits: dict[str, float] = {}
    if gpus:
        limits["gpu_count"] = max(len(group) for group in group_by_node(gpus).values())
        limits["gpu_memory"] = max(device.usable for device in gpus) // MIB
    if processors:
        limits["memory"] = max(device.usable for device in processors) // MIB
    if cores := [device.cores for device in processors if device.cores]:
        limits["cpu_cores"] = max(cores)
    if devices:
        groups = [*group_by_node(gpus).values(), *([device] for device in processors)]
        limits["kv_cache_bytes"] = max(sum(device.usable for device in group) for group in groups)
    return limits
