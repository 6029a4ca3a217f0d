"""What measures: the host by psutil, GPUs by NVML, engines by their own pages of metrics."""

import time
from bisect import bisect_left
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pynvml
from django.conf import settings

from engines import registry
from engines.base import Readings
from engines.prometheus_parser import Histogram
from inference.models import Instance
from monitoring.figures.catalogue import BOUNDS
from node_agent import folders, probes

MIB = 1024 * 1024
FIRST_SECONDS = 0.5  # what the first figure of the processors looks at
ENGINE_SECONDS = 2.0  # an engine that answers later than that is asked again at the next sample


class Increases:
    """Counters count from some beginning; kept here is by how much they rose since they were last seen."""

    def __init__(self):
        self._seen: dict[Hashable, float] = {}

    def of(self, key: Hashable, value: float, *, from_zero: bool = False) -> float | None:
        """None at first sight, unless the counter is known to have begun `from_zero` since the sample before.

        A counter that went down began anew; one that was missing for a while rises by all that it missed.
        """
        before = self._seen.get(key, 0.0 if from_zero else None)
        self._seen[key] = value
        if before is None:
            return None
        return value - before if value >= before else value

    def keep_only(self, wanted: Callable[[Hashable], bool]) -> None:
        self._seen = {key: value for key, value in self._seen.items() if wanted(key)}


@dataclass(frozen=True)
class Gpu:
    """One GPU now: memory in MiB, power in W; None for what it does not tell."""

    index: int
    name: str
    driver_version: str
    cuda_version: str
    memory_used: int
    memory_total: int
    utilization: float | None = None
    temperature: float | None = None
    power_usage: float | None = None
    power_limit: float | None = None
    processes: list[dict] = field(default_factory=list)


class HostMeter:
    def __init__(self):
        self._cpu = psutil.cpu_percent(interval=FIRST_SECONDS)  # from here on: since the call before
        self._increases = Increases()
        self.counters()

    def gauges(self) -> dict[str, float]:
        memory = psutil.virtual_memory()
        cpu, self._cpu = self._cpu, None
        return {
            "cpu_percent": psutil.cpu_percent() if cpu is None else cpu,
            "memory_percent": memory.percent,
            "memory_used": (memory.total - memory.available) / MIB,
            "disk_percent": psutil.disk_usage(str(settings.DATA_DIR)).percent,
        }

    def counters(self) -> dict[str, float]:
        """Increases since the last call, in bytes."""
        found = {name: self._increases.of(name, value) for name, value in _transferred().items()}
        return {name: increase for name, increase in found.items() if increase is not None}


def _transferred() -> dict[str, int]:
    interfaces = psutil.net_io_counters(pernic=True)
    outward = [counts for name, counts in interfaces.items() if name != "lo"]
    totals = {
        "network_received": sum(counts.bytes_recv for counts in outward),
        "network_sent": sum(counts.bytes_sent for counts in outward),
    }
    if disks := psutil.disk_io_counters():  # a container may have none
        totals |= {"disk_read": disks.read_bytes, "disk_written": disks.write_bytes}
    return totals


class GpuMeter:
    """Reads the driver's library, which stays open; on a machine without one it reads nothing."""

    def __init__(self):
        self._open = False

    def read(self) -> list[Gpu]:
        try:
            if not self._open:
                pynvml.nvmlInit()
                self._open = True
            versions = pynvml.nvmlSystemGetDriverVersion(), _cuda_version()
            return [_gpu(index, *versions) for index in range(pynvml.nvmlDeviceGetCount())]
        except pynvml.NVMLError:
            self._open = False  # no driver, or it was replaced under us
            return []


def _cuda_version() -> str:
    number = pynvml.nvmlSystemGetCudaDriverVersion()
    return f"{number // 1000}.{number % 1000 // 10}"


def _gpu(index: int, driver: str, cuda: str) -> Gpu:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    rates = _told(pynvml.nvmlDeviceGetUtilizationRates, handle)
    return Gpu(
        index,
        pynvml.nvmlDeviceGetName(handle),
        driver,
        cuda,
        memory.used // MIB,
        memory.total // MIB,
        utilization=rates and rates.gpu,
        temperature=_told(pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU),
        power_usage=_watts(_told(pynvml.nvmlDeviceGetPowerUsage, handle)),
        power_limit=_watts(_told(pynvml.nvmlDeviceGetEnforcedPowerLimit, handle)),
        processes=[_process(each) for each in _told(pynvml.nvmlDeviceGetComputeRunningProcesses, handle) or []],
    )


def _told(question: Callable, *arguments):
    """None where this kind of device has no answer, as virtual GPUs have to many questions."""
    try:
        return question(*arguments)
    except pynvml.NVMLError:
        return None


def _watts(milliwatts: int | None) -> float | None:
    return None if milliwatts is None else round(milliwatts / 1000, 1)


def _process(found) -> dict:
    try:
        name = psutil.Process(found.pid).name()
    except psutil.Error:
        name = ""  # it ended, or lives in another container
    used = found.usedGpuMemory
    return {"pid": found.pid, "name": name, "memory_usage": None if used is None else used // MIB}


# Field of Readings → our metric
ENGINE_GAUGES = {"running": "engine_running", "waiting": "engine_waiting", "kv_usage": "engine_kv_usage"}
ENGINE_COUNTERS = {
    "prompt_tokens": "engine_prompt_tokens",
    "generation_tokens": "engine_generation_tokens",
    "cached_tokens": "engine_cached_tokens",
    "prefix_queries": "engine_prefix_queries",
    "prefix_hits": "engine_prefix_hits",
    "preemptions": "engine_preemptions",
}
ENGINE_HISTOGRAMS = {"ttft": "engine_ttft", "tpot": "engine_tpot"}
PERCENT = {"kv_usage": 100}


@dataclass(frozen=True)
class Figure:
    """A value of one metric; `count` and `buckets` as in models.Sample."""

    metric: str
    value: float
    count: int = 1
    buckets: list[int] | None = None


class EngineMeter:
    """Asks all engines at once, so that one that hangs keeps no other from being measured."""

    def __init__(self, threads: int = 8):
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="meter")
        self._increases = Increases()
        self._began_at = time.time()

    def read(self, instances: list[Instance]) -> Iterator[tuple[Instance, list[Figure]]]:
        runs = {(instance.pk, instance.running_generation) for instance in instances}
        self._increases.keep_only(lambda key: key[:2] in runs)
        pages = self._pool.map(_page, (folders.socket_of(instance.pk) for instance in instances))
        for instance, page in zip(instances, pages, strict=True):
            if page is not None:
                readings = registry.get(instance.model.framework).readings(page)
                yield instance, list(self._figures(instance, readings))

    def _figures(self, instance: Instance, readings: Readings) -> Iterator[Figure]:
        for name, metric in ENGINE_GAUGES.items():
            if (value := getattr(readings, name)) is not None:
                yield Figure(metric, value * PERCENT.get(name, 1))
        for name, metric in ENGINE_COUNTERS.items():
            value = getattr(readings, name)
            if value is not None and (rise := self._rise(instance, name, value)) is not None:
                yield Figure(metric, rise)
        for name, metric in ENGINE_HISTOGRAMS.items():
            if (histogram := getattr(readings, name)) and (figure := self._observed(instance, metric, histogram)):
                yield figure

    def _rise(self, instance: Instance, name: str, value: float) -> float | None:
        """An engine that became ready while we were watching began from zero under our eyes."""
        began_here = instance.ready_at is not None and instance.ready_at.timestamp() > self._began_at
        return self._increases.of((instance.pk, instance.running_generation, name), value, from_zero=began_here)

    def _observed(self, instance: Instance, metric: str, histogram: Histogram) -> Figure | None:
        """The new observations, counted in our buckets: each of the engine's goes where its upper bound lies."""
        count = self._rise(instance, f"{metric} count", histogram.count)
        total = self._rise(instance, f"{metric} sum", histogram.sum)
        buckets, below = [0] * (len(BOUNDS) + 1), 0
        for bound, reached in histogram.buckets:
            rise = self._rise(instance, f"{metric} {bound}", reached - below)
            buckets[bisect_left(BOUNDS, bound)] += int(rise or 0)
            below = reached
        return Figure(metric, total, int(count), buckets) if count and total is not None else None


def _page(socket: Path) -> str | None:
    return probes.get(socket, "/metrics", timeout=ENGINE_SECONDS)
