"""This machine's figures on their way: measured, kept while the database is away, written, and told to sockets."""

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
from monitoring.figures.samples import Key, Sample
from monitoring.topics import GPU_METRICS, HOST_METRICS

logger = logging.getLogger(__name__)

MOST_KEPT = 50_000  # samples, some 15 MB: hours of a machine with eight GPUs
BATCH = 2_000


@dataclass(frozen=True)
class Moment:
    """What was last measured of the host and its GPUs."""

    at: datetime
    gauges: dict[str, float]
    gpus: list[Gpu]


class NodeSampler:
    """One per worker, driven by node_agent/sampling.py. Its meters are made at the first sample."""

    def __init__(self):
        self._meters: tuple[HostMeter, GpuMeter, EngineMeter] | None = None
        self._instances: list[Instance] = []
        self._latest: Moment | None = None
        self._lock = threading.Lock()
        self._kept: deque[Sample] = deque(maxlen=MOST_KEPT)
        self._unsent: list[Sample] = []

    def sample(self, node: Node) -> None:
        host, gpu, engines = self._meters = self._meters or (HostMeter(), GpuMeter(), EngineMeter())
        self._latest = now = Moment(datetime.now(UTC), host.gauges(), gpu.read())
        self._keep(_host_samples(node, now.at, now.gauges | host.counters()))
        self._keep(_gpu_samples(node, now.at, now.gpus))
        self._keep(_engine_samples(node, now.at, engines, self._instances))

    def write(self, node: Node) -> None:
        self._send()
        self._instances = list(Instance.objects.on(node).serving().select_related("model"))
        if self._latest:
            latest.record(node, self._latest.at, self._latest.gauges, self._latest.gpus)
            _publish(node)

    def _keep(self, taken: Iterator[Sample]) -> None:
        taken = list(taken)
        with self._lock:
            if (lost := len(self._kept) + len(taken) - MOST_KEPT) > 0:
                logger.warning("sampling: the oldest %d samples are dropped, too many wait for the database", lost)
            self._kept.extend(taken)

    def _send(self) -> None:
        """The oldest first; what was on its way when the connection broke is sent again and counts once."""
        while batch := self._unsent or self._take():
            self._unsent = batch
            samples.write(batch)
            self._unsent = []

    def _take(self) -> list[Sample]:
        with self._lock:
            return [self._kept.popleft() for _ in range(min(BATCH, len(self._kept)))]


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
    """Single machines to operators, all together to everybody."""
    events.send([events.OPERATORS], HOST_METRICS, node.pk, latest.host_event(node))
    events.send([events.EVERYONE], HOST_METRICS, "", latest.total_event())
    for device in latest.gpus().filter(node=node):
        events.send([events.OPERATORS], GPU_METRICS, f"{node.pk} {device.index}", latest.gpu_event(device))
