"""This machine's figures on their way: measured, kept while the database is away, written, and told to sockets."""

import logging
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice

from core import events
from inference.models import DeviceKind, Instance, Node
from monitoring import latest, samples
from monitoring.meters import EngineMeter, Gpu, GpuMeter, HostMeter
from monitoring.samples import Key, Sample
from monitoring.topics import GPU_METRICS, HOST_METRICS

logger = logging.getLogger(__name__)

MOST_KEPT = 50_000  # samples, some 15 MB: hours of a machine with eight GPUs
BATCH = 2_000


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
        latest.record(node, at, gauges, gpus)
        self._instances = list(Instance.objects.on(node).serving().select_related("model"))
        _publish(node)

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


def _publish(node: Node) -> None:
    """To operators: machines are theirs."""
    node.refresh_from_db(fields=["live"])
    events.send([events.OPERATORS], HOST_METRICS, node.pk, latest.host_event(node))
    for device in latest.gpus().filter(node=node):
        events.send([events.OPERATORS], GPU_METRICS, f"{node.pk} {device.index}", latest.gpu_event(device))
