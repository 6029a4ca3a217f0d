"""This machine's figures on their way: measured, kept while the database is away, written, and told to sockets."""

import logging
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import islice

from core.events import publish_on_commit
from inference.models import Device, DeviceKind, Instance, Node
from monitoring import samples
from monitoring.meters import EngineMeter, Gpu, GpuMeter, HostMeter
from monitoring.samples import Key, Sample

logger = logging.getLogger(__name__)

MOST_KEPT = 50_000  # samples, some 15 MB: hours of a machine with eight GPUs
BATCH = 2_000
GPU_EVENT, HOST_EVENT = "gpu_metrics_update", "host_metrics_update"


class NodeSampler:
    """One per worker, called by inference/agent/sampling.py. Its meters are made at the first sample."""

    def __init__(self):
        self._kept: deque[Sample] = deque(maxlen=MOST_KEPT)
        self._meters: tuple[HostMeter, GpuMeter, EngineMeter] | None = None
        self._instances: list[Instance] = []

    def sample(self, node: Node) -> None:
        host, gpu, engines = self._meters = self._meters or (HostMeter(), GpuMeter(), EngineMeter())
        at, gauges, gpus = datetime.now(UTC), host.gauges(), gpu.read()
        self._keep(_host_samples(node, at, gauges | host.counters()))
        self._keep(_gpu_samples(node, at, gpus))
        self._keep(_engine_samples(node, at, engines, self._instances))
        self._write()
        _record_latest(node, at, gauges, gpus)
        self._instances = list(Instance.objects.on(node).serving().select_related("model"))
        _publish(node, at, gauges, gpus)

    def _keep(self, taken: Iterator[Sample]) -> None:
        taken = list(taken)
        if (lost := len(self._kept) + len(taken) - MOST_KEPT) > 0:
            logger.warning("sampling: the oldest %d samples are dropped, too many wait for the database", lost)
        self._kept.extend(taken)

    def _write(self) -> None:
        """The oldest first; what was written when the connection broke is sent again and counts once."""
        while batch := list(islice(self._kept, BATCH)):
            samples.write(batch)
            for _ in batch:
                self._kept.popleft()


def _host_samples(node: Node, at: datetime, figures: dict[str, float]) -> Iterator[Sample]:
    for metric, value in figures.items():
        yield Sample(Key(metric, node_id=node.pk), at, value)


def _gpu_samples(node: Node, at: datetime, gpus: list[Gpu]) -> Iterator[Sample]:
    for gpu in gpus:
        figures = {
            "gpu_utilization": gpu.utilization,
            "gpu_memory_used": gpu.memory_used,
            "gpu_memory_percent": 100 * gpu.memory_used / gpu.memory_total,
            "gpu_temperature": gpu.temperature,
            "gpu_power": gpu.power_usage,
            "gpu_processes": len(gpu.processes),
        }
        for metric, value in figures.items():
            if value is not None:
                yield Sample(Key(metric, node_id=node.pk, device=f"{DeviceKind.CUDA}:{gpu.index}"), at, value)


def _engine_samples(node: Node, at: datetime, meter: EngineMeter, instances: list[Instance]) -> Iterator[Sample]:
    for instance, figures in meter.read(instances):
        for figure in figures:
            key = Key(
                figure.metric,
                node_id=node.pk,
                model_id=instance.model_id,
                replica=instance.replica,
                tenant_id=instance.tenant_id,
            )
            yield Sample(key, at, figure.value, figure.count, figure.buckets)


def _record_latest(node: Node, at: datetime, gauges: dict[str, float], gpus: list[Gpu]) -> None:
    """What routes show as now."""
    Node.objects.filter(pk=node.pk).update(live={**gauges, "at": at.isoformat()})
    for gpu in gpus:
        row = Device.objects.filter(node=node, kind=DeviceKind.CUDA, index=gpu.index)
        row.update(live={**asdict(gpu), "at": at.isoformat()})


def _publish(node: Node, at: datetime, gauges: dict[str, float], gpus: list[Gpu]) -> None:
    """To operators: machines are theirs."""
    about = {"node": node.name, "timestamp": at.strftime("%Y-%m-%dT%H:%M:%SZ")}
    shown = {name: gauges[name] for name in ("cpu_percent", "memory_percent", "disk_percent")}
    publish_on_commit(None, HOST_EVENT, shown | about)
    for gpu in gpus:
        shown = {"utilization": gpu.utilization, "memory_used": gpu.memory_used, "temperature": gpu.temperature}
        publish_on_commit(None, GPU_EVENT, {"gpu_id": gpu.index} | shown | about)
