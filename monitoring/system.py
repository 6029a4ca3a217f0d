"""What the service document tells of the system now: models by state, machines together, GPUs one by one."""

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

COUNTED = {"created": "stopped", "running": "running", "stopped": "stopped", "error": "error"}
NO_MODELS = {"total": 0, "running": 0, "stopped": 0, "error": 0, "starting": 0, "stopping": 0}
RESOURCES = ("cpu_percent", "memory_percent", "disk_percent")


def overview(actor: Actor) -> dict:
    """A tenant's own models and the totals of the machines; all of it for operators. `degraded`: no worker lives."""
    return {
        "status": "healthy" if Node.objects.alive().exists() else "degraded",
        "version": settings.VERSION,
        "uptime": int(time.time() - psutil.Process().create_time()),
        "models": _models(actor),
        "resources": _resources(),
        "gpu": [_short(each) for each in latest.gpus()] if actor.is_operator else _together(list(latest.gpus())),
    }


def _models(actor: Actor) -> dict[str, int]:
    models = list(Model.objects.visible_to(actor))
    foremost = foremost_instances(models)
    words = Counter(status_words.word(foremost.get(model.pk)).status for model in models)
    counts = NO_MODELS | {"total": len(models)}
    for word, count in words.items():
        counts[COUNTED.get(word, word)] += count
    return counts


def _resources() -> dict[str, float | None]:
    """Means over the machines; None before the first sample."""
    live = [node.live for node in latest.nodes()]
    return {name: _mean([each[name] for each in live]) for name in RESOURCES}


def _mean(values: list[float]) -> float | None:
    return round(sum(values) / len(values), 1) if values else None


def _short(device: Device) -> dict:
    shown = {name: device.live.get(name) for name in ("utilization", "memory_used", "memory_total", "temperature")}
    return {"id": device.index, "name": device.name, **shown, "node": device.node.name}


def _together(devices: list[Device]) -> list[dict]:
    """All GPUs as one: which machine has how many is the operators' business."""
    if not devices:
        return []
    live = [device.live for device in devices]
    temperatures = [each["temperature"] for each in live if each["temperature"] is not None]
    return [
        {
            "id": 0,
            "name": f"{len(devices)} × {devices[0].name}" if len({each.name for each in devices}) == 1 else "GPUs",
            "utilization": _mean([each["utilization"] for each in live if each["utilization"] is not None]),
            "memory_used": sum(each["memory_used"] for each in live),
            "memory_total": sum(each["memory_total"] for each in live),
            "temperature": max(temperatures, default=None),
        }
    ]


def gpus() -> list[dict]:
    return [_whole(device) for device in latest.gpus()]


def _whole(device: Device) -> dict:
    """As it was sampled; memory in MiB."""
    live = device.live
    fields = ("driver_version", "cuda_version", "utilization", "memory_used", "memory_total")
    after = ("temperature", "power_usage", "power_limit", "processes")
    return {
        "id": device.index,
        "name": device.name,
        **{name: live[name] for name in fields},
        "memory_free": live["memory_total"] - live["memory_used"],
        **{name: live[name] for name in after},
        "node": device.node.name,
        "timestamp": live["timestamp"],
    }
