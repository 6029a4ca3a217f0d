"""The current system state for the service API (`/api`): models by state, means of all machines, each GPU."""

import time
from collections import Counter

import psutil
from django.conf import settings

from accounts.actor import Actor
from inference.instances import status_words
from inference.models import Device, Node
from inference.serving.runtime import foremost_instances
from models_app.models import Model
from monitoring.figures import latest

STATUS_COUNTERS = {"created": "stopped", "running": "running", "stopped": "stopped", "error": "error"}
ZERO_COUNTS = {"total": 0, "running": 0, "stopped": 0, "error": 0, "starting": 0, "stopping": 0}
RESOURCES = ("cpu_percent", "memory_percent", "disk_percent")


def overview(actor: Actor) -> dict:
    """A tenant's own models and machine totals; operators see everything. `degraded` means that no worker is online."""
    return {
        "status": "healthy" if Node.objects.online().exists() else "degraded",
        "version": settings.VERSION,
        "uptime": int(time.time() - psutil.Process().create_time()),
        "models": _model_counts(actor),
        "resources": _mean_resources(),
        "gpu": [_gpu_summary(gpu) for gpu in latest.sampled_gpus()]
        if actor.is_operator
        else _gpu_total(list(latest.sampled_gpus())),
    }


def _model_counts(actor: Actor) -> dict[str, int]:
    models = list(Model.objects.visible_to(actor))
    foremost = foremost_instances(models)
    statuses = Counter(status_words.labels_for(foremost.get(model.pk)).status for model in models)
    counts = ZERO_COUNTS | {"total": len(models)}
    for name, count in statuses.items():
        counts[STATUS_COUNTERS.get(name, name)] += count
    return counts


def _mean_resources() -> dict[str, float | None]:
    """Means over all machines; None before the first sample."""
    samples = [node.live for node in latest.sampled_nodes()]
    return {name: latest.mean([sample[name] for sample in samples]) for name in RESOURCES}


def _gpu_summary(device: Device) -> dict:
    values = {name: device.live.get(name) for name in ("utilization", "memory_used", "memory_total", "temperature")}
    return {"id": device.index, "name": device.name, **values, "node": device.node.name}


def _gpu_total(devices: list[Device]) -> list[dict]:
    """All GPUs as one entry: only operators may see which machine has how many."""
    if not devices:
        return []
    samples = [device.live for device in devices]
    temperatures = [sample["temperature"] for sample in samples if sample["temperature"] is not None]
    utilizations = [sample["utilization"] for sample in samples if sample["utilization"] is not None]
    return [
        {
            "id": 0,
            "name": f"{len(devices)} × {devices[0].name}" if len({device.name for device in devices}) == 1 else "GPUs",
            "utilization": latest.mean(utilizations),
            "memory_used": sum(sample["memory_used"] for sample in samples),
            "memory_total": sum(sample["memory_total"] for sample in samples),
            "temperature": max(temperatures, default=None),
        }
    ]


def gpus() -> list[dict]:
    return [_gpu_details(device) for device in latest.sampled_gpus()]


def _gpu_details(device: Device) -> dict:
    """The latest sample; memory in MiB."""
    sample = device.live
    first = ("driver_version", "cuda_version", "utilization", "memory_used", "memory_total")
    last = ("temperature", "power_usage", "power_limit", "processes")
    return {
        "id": device.index,
        "name": device.name,
        **{name: sample[name] for name in first},
        "memory_free": sample["memory_total"] - sample["memory_used"],
        **{name: sample[name] for name in last},
        "node": device.node.name,
        "timestamp": sample["timestamp"],
    }
