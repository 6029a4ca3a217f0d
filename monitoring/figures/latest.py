"""What each machine and GPU was last seen to do: as agents write it, as sockets are told it, as routes show it."""

from dataclasses import asdict
from datetime import datetime

from django.db.models import QuerySet

from accounts.actor import Actor
from inference.models import Device, DeviceKind, Node
from monitoring.figures.meters import Gpu
from monitoring.topics import GPU_METRICS, HOST_METRICS

HOST_FIELDS = ("cpu_percent", "memory_percent", "disk_percent")
GPU_FIELDS = ("utilization", "memory_used", "temperature")


def record(node: Node, at: datetime, host: dict[str, float], gpus: list[Gpu]) -> None:
    timestamp = at.strftime("%Y-%m-%dT%H:%M:%SZ")
    node.live = {**host, "timestamp": timestamp}
    Node.objects.filter(pk=node.pk).update(live=node.live)
    for gpu in gpus:
        rows = Device.objects.filter(node=node, kind=DeviceKind.CUDA, index=gpu.index)
        rows.update(live={**asdict(gpu), "timestamp": timestamp})


def nodes() -> QuerySet:
    """Live machines that were sampled."""
    return Node.objects.alive().exclude(live={})


def gpus() -> QuerySet:
    """Devices that are there and were sampled."""
    rows = Device.objects.online().filter(kind=DeviceKind.CUDA).exclude(live={})
    return rows.select_related("node").order_by("node__name", "node_id", "index")


def host_event(node: Node) -> dict:
    shown = {name: node.live.get(name) for name in HOST_FIELDS}
    return {"node": node.name, **shown, "timestamp": node.live.get("timestamp")}


def total_event() -> dict:
    """All machines together, for those who may not know of single ones: means, as of the latest sample."""
    live = [node.live for node in nodes()]
    shown = {name: _mean([one[name] for one in live if one.get(name) is not None]) for name in HOST_FIELDS}
    return {"node": None, **shown, "timestamp": max((one["timestamp"] for one in live), default=None)}


def _mean(values: list[float]) -> float | None:
    return round(sum(values) / len(values), 1) if values else None


def gpu_event(device: Device) -> dict:
    shown = {name: device.live.get(name) for name in GPU_FIELDS}
    return {"gpu_id": device.index, "node": device.node.name, **shown, "timestamp": device.live.get("timestamp")}


def host_events(actor: Actor) -> list[dict]:
    """Single machines are the operators'."""
    if actor.sees_all:
        return [host_event(node) for node in nodes()]
    return [total_event()] if nodes().exists() else []


def gpu_events(actor: Actor) -> list[dict]:
    return [gpu_event(device) for device in gpus()] if actor.sees_all else []


READERS = {HOST_METRICS: host_events, GPU_METRICS: gpu_events}
