"""Samples this machine: measures, buffers while the database is unreachable, writes, and publishes to sockets."""

import logging
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from core import events
from inference.models import DeviceKind, Instance, Node
from monitoring.figures import latest, samples
from monitoring.figures.meters import EngineMeter, Gpu, GpuMeter, HostMeter
from monitoring.figures.samples import NewSample, SeriesKey
from monitoring.topics import GPU_METRICS, HOST_METRICS

logger = logging.getLogger(__name__)

MAX_BUFFERED = 50_000  # samples, about 15 MB: hours of a machine with eight GPUs
BATCH_SIZE = 2_000


@dataclass(frozen=True)
class NodeMeasurement:
    """The latest measurement of the host and its GPUs."""

    at: datetime
    gauges: dict[str, float]
    gpus: list[Gpu]


class NodeSampler:
    """One per worker, driven by node_agent/sampling.py. Its meters are created at the first sample."""

    def __init__(self):
        self._meters: tuple[HostMeter, GpuMeter, EngineMeter] | None = None
        self._instances: list[Instance] = []
        self._latest_moment: NodeMeasurement | None = None
        self._lock = threading.Lock()
        self._buffer: deque[NewSample] = deque(maxlen=MAX_BUFFERED)
        self._unwritten: list[NewSample] = []

    def sample(self, node: Node) -> None:
        host, gpu, engines = self._meters = self._meters or (HostMeter(), GpuMeter(), EngineMeter())
        self._latest_moment = now = NodeMeasurement(datetime.now(UTC), host.gauges(), gpu.read())
        self._buffer_samples(_host_samples(node, now.at, now.gauges | host.counters()))
        self._buffer_samples(_gpu_samples(node, now.at, now.gpus))
        self._buffer_samples(_engine_samples(node, now.at, engines, self._instances))

    def write(self, node: Node) -> None:
        self._write_buffered()
        self._instances = list(Instance.objects.on(node).serving().select_related("model"))
        if moment := self._latest_moment:
            latest.save_sample(node, moment.at, moment.gauges, moment.gpus)
            _publish(node)

    def _buffer_samples(self, new: Iterator[NewSample]) -> None:
        added = list(new)
        with self._lock:
            if (lost := len(self._buffer) + len(added) - MAX_BUFFERED) > 0:
                logger.warning("sampling: the oldest %d samples are dropped, too many wait for the database", lost)
            self._buffer.extend(added)

    def _write_buffered(self) -> None:
        """The oldest first. A batch during which the connection broke is written again and counts once."""
        while batch := self._unwritten or self._next_batch():
            self._unwritten = batch
            samples.write_samples(batch)
            self._unwritten = []

    def _next_batch(self) -> list[NewSample]:
        with self._lock:
            return [self._buffer.popleft() for _ in range(min(BATCH_SIZE, len(self._buffer)))]


def _host_samples(node: Node, at: datetime, values: dict[str, float]) -> Iterator[NewSample]:
    for metric, value in values.items():
        yield NewSample(SeriesKey(metric, node_id=node.pk), at, value)


def _gpu_samples(node: Node, at: datetime, gpus: list[Gpu]) -> Iterator[NewSample]:
    for gpu in gpus:
        values = {
            "gpu_utilization": gpu.utilization,
            "gpu_memory_used": gpu.memory_used,
            "gpu_memory_percent": 100 * gpu.memory_used / gpu.memory_total,
            "gpu_temperature": gpu.temperature,
            "gpu_power": gpu.power_usage,
            "gpu_processes": len(gpu.processes),
        }
        for metric, value in values.items():
            if value is not None:
                yield NewSample(SeriesKey(metric, node_id=node.pk, device=f"{DeviceKind.CUDA}:{gpu.index}"), at, value)


def _engine_samples(node: Node, at: datetime, meter: EngineMeter, instances: list[Instance]) -> Iterator[NewSample]:
    for instance, figures in meter.read(instances):
        for figure in figures:
            key = SeriesKey(
                figure.metric,
                node_id=node.pk,
                model_id=instance.model_id,
                replica=instance.replica,
                tenant_id=instance.tenant_id,
            )
            yield NewSample(key, at, figure.value, figure.count, figure.buckets)


def _publish(node: Node) -> None:
    """Each machine to operators, the mean of all machines to all users."""
    events.publish_now([events.OPERATORS], HOST_METRICS, node.pk, latest.host_event(node))
    events.publish_now([events.EVERYONE], HOST_METRICS, "", latest.mean_event())
    for device in latest.sampled_gpus().filter(node=node):
        events.publish_now([events.OPERATORS], GPU_METRICS, f"{node.pk} {device.index}", latest.gpu_event(device))
