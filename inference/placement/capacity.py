"""A model's wishes held against all known machines: what none could ever fulfil is refused with the figures."""

from django.utils.translation import gettext as _

from core.errors import InvalidRequest
from engines.base import MIB
from inference.models import DeviceKind
from inference.placement import resource_options
from inference.placement.fit import by_node
from inference.placement.types import DeviceView
from models_app.models import Model


def check(model: Model, devices: list[DeviceView]) -> list[str]:
    """Warnings. Raises InvalidRequest that names each wish with what there is at most; memory in MiB."""
    most = _most(devices)
    wrong = {}
    for field, name, wanted in _wishes(model):
        if name in most and wanted > most[name]:
            words = _("%(wanted)s is more than any machine here has: %(most)s.")
            wrong[field] = words % {"wanted": wanted, "most": most[name]}
    if wrong:
        raise InvalidRequest(details=wrong)
    if devices and "gpu_count" not in most and resource_options.wants_gpus(model):
        return [_("The model asks for GPUs, and no machine has one: it cannot start until one does.")]
    return []


def _wishes(model: Model):
    """(place, name, figure) of everything that is asked of a machine in so many words."""
    for name, wanted in model.resource_requirements.items():
        yield f"resource_requirements.{name}", name, wanted
    for number, profile in enumerate(model.profiles):
        for name in ("gpu_count", "gpu_memory", "memory"):
            if name in profile:
                yield f"profiles.{number}.{name}", name, profile[name]
    if "kv_cache_bytes" in model.config:
        yield "config.kv_cache_bytes", "kv_cache_bytes", model.config["kv_cache_bytes"]


def _most(devices: list[DeviceView]) -> dict[str, float]:
    """The largest figure that any machine has; a name that no machine has anything of is left out."""
    gpus = [device for device in devices if device.kind == DeviceKind.CUDA]
    processors = [device for device in devices if device.kind == DeviceKind.CPU]
    found = {}
    if gpus:
        found["gpu_count"] = max(len(group) for group in by_node(gpus).values())
        found["gpu_memory"] = max(device.usable for device in gpus) // MIB
    if processors:
        found["memory"] = max(device.usable for device in processors) // MIB
    if cores := [device.cores for device in processors if device.cores]:
        found["cpu_cores"] = max(cores)
    if devices:
        groups = [*by_node(gpus).values(), *([device] for device in processors)]
        found["kv_cache_bytes"] = max(sum(device.usable for device in group) for group in groups)
    return found
