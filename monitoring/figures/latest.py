"""The latest sample of each machine and GPU: written by agents, published to sockets, shown by routes."""

from dataclasses import asdict
from datetime import datetime

from django.db.models import QuerySet

from accounts.actor import Actor
from core.times import utc_timestamp
from inference.models import Device, DeviceKind, Node
from monitoring.figures.meters import Gpu
from monitoring.topics import GPU_METRICS, HOST_METRICS

HOST_FIELDS = ("cpu_percent", "memory_percent", "disk_percent")
GPU_FIELDS = ("utilization", "memory_used", "temperature")


def save_sample(node: Node, at: datetime, host: dict[str, float], gpus: list[Gpu]) -> None:
    timestamp = utc_timestamp(at)
    node.live = {**host, "timestamp": timestamp}
    Node.objects.filter(pk=node.pk).update(live=node.live)
    for gpu in gpus:
        rows = Device.objects.filter(node=node, kind=DeviceKind.CUDA, index=gpu.index)
        rows.update(live={**asdict(gpu), "timestamp": timestamp})


def sampled_nodes() -> QuerySet:
    """Machines that are online and were sampled."""
    return Node.objects.online().exclude(live={})


def sampled_gpus() -> QuerySet:
    """GPUs that are present and were sampled."""
    rows = Device.objects.online().filter(kind=DeviceKind.CUDA).exclude(live={})
    return rows.select_related("node").order_by("node__name", "node_id", "index")


def host_event(node: Node) -> dict:
    values = {name: node.live.get(name) for name in HOST_FIELDS}
    return {"node": node.name, **values, "timestamp": node.live.get("timestamp")}


def mean_event() -> dict:
    """The mean of all machines, as of the latest sample, for users who may not see single machines."""
    samples = [node.live for node in sampled_nodes()]
    means = {name: mean([sample[name] for sample in samples if sample.get(name) is not None]) for name in HOST_FIELDS}
    return {"node": None, **means, "timestamp": max((sample["timestamp"] for sample in samples), default=None)}


def mean(values: list[float]) -> float | None:
    return round(sum(values) / len(values), 1) if values else None


def gpu_event(device: Device) -> dict:
    values = {name: device.live.get(name) for name in GPU_FIELDS}
    return {"gpu_id": device.index, "node": device.node.name, **values, "timestamp": device.live.get("timestamp")}


def host_events(actor: Actor) -> list[dict]:
    """Only operators see single machines."""
    if actor.sees_all:
        return [host_event(node) for node in sampled_nodes()]
    return [mean_event()] if sampled_nodes().exists() else []


def gpu_events(actor: Actor) -> list[dict]:
    return [gpu_event(device) for device in sampled_gpus()] if actor.sees_all else []


STATE_READERS = {HOST_METRICS: host_events, GPU_METRICS: gpu_events}
