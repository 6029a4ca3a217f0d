"""Meters: the host through psutil, GPUs through NVML, engines through their own metrics endpoints."""

import time
from bisect import bisect_left
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

import psutil
import pynvml
from django.conf import settings

from core.units import MIB
from engines import registry
from engines.base import EngineReadings
from engines.prometheus_parser import Histogram
from inference.models import Instance
from monitoring.figures.catalogue import BOUNDS
from node_agent import folders, probes

FIRST_CPU_INTERVAL = 0.5  # the time that the first CPU value covers
ENGINE_TIMEOUT = 2.0  # an engine that takes longer is read again at the next sample
CounterKey = TypeVar("CounterKey", bound=Hashable)


class CounterIncreases(Generic[CounterKey]):
    """Turns counter values into increases since the previous reading."""

    def __init__(self):
        self._last: dict[CounterKey, float] = {}

    def since_last(self, key: CounterKey, value: float, *, from_zero: bool = False) -> float | None:
        """None at the first reading, unless the counter is known to have started `from_zero` since the last sample.

        A counter that went down was reset. One that was not read for a while rises by everything since then.
        """
        previous = self._last.get(key, 0.0 if from_zero else None)
        self._last[key] = value
        if previous is None:
            return None
        return value - previous if value >= previous else value

    def keep_only(self, wanted: Callable[[CounterKey], bool]) -> None:
        self._last = {key: value for key, value in self._last.items() if wanted(key)}


@dataclass(frozen=True)
class Gpu:
    """The state of one GPU: memory in MiB, power in W; None for values that it does not report."""

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
        # later calls: since the previous call
        self._cpu: float | None = psutil.cpu_percent(interval=FIRST_CPU_INTERVAL)
        self._increases = CounterIncreases[str]()
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
        increases = {name: self._increases.since_last(name, value) for name, value in _io_totals().items()}
        return {name: increase for name, increase in increases.items() if increase is not None}


def _io_totals() -> dict[str, int]:
    interfaces = psutil.net_io_counters(pernic=True)
    external = [counts for name, counts in interfaces.items() if name != "lo"]
    totals = {
        "network_received": sum(counts.bytes_recv for counts in external),
        "network_sent": sum(counts.bytes_sent for counts in external),
    }
    if disks := psutil.disk_io_counters():  # a container may have none
        totals |= {"disk_read": disks.read_bytes, "disk_written": disks.write_bytes}
    return totals


class GpuMeter:
    """Reads through the driver's library, which stays open. Without a driver there are no GPUs."""

    def __init__(self):
        self._open = False

    def read(self) -> list[Gpu]:
        try:
            if not self._open:
                pynvml.nvmlInit()
                self._open = True
            versions = pynvml.nvmlSystemGetDriverVersion(), _cuda_version()
            return [_read_gpu(index, *versions) for index in range(pynvml.nvmlDeviceGetCount())]
        except pynvml.NVMLError:
            self._open = False  # no driver, or the driver was replaced while we ran
            return []


def _cuda_version() -> str:
    number = pynvml.nvmlSystemGetCudaDriverVersion()
    return f"{number // 1000}.{number % 1000 // 10}"


def _read_gpu(index: int, driver: str, cuda: str) -> Gpu:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    rates = _query_or_none(pynvml.nvmlDeviceGetUtilizationRates, handle)
    return Gpu(
        index,
        pynvml.nvmlDeviceGetName(handle),
        driver,
        cuda,
        memory.used // MIB,
        memory.total // MIB,
        utilization=rates and rates.gpu,
        temperature=_query_or_none(pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU),
        power_usage=_watts(_query_or_none(pynvml.nvmlDeviceGetPowerUsage, handle)),
        power_limit=_watts(_query_or_none(pynvml.nvmlDeviceGetEnforcedPowerLimit, handle)),
        processes=[
            _describe_process(process)
            for process in _query_or_none(pynvml.nvmlDeviceGetComputeRunningProcesses, handle) or []
        ],
    )


def _query_or_none(query: Callable, *arguments):
    """None where this kind of device does not support the query, as virtual GPUs often do not."""
    try:
        return query(*arguments)
    except pynvml.NVMLError:
        return None


def _watts(milliwatts: int | None) -> float | None:
    return None if milliwatts is None else round(milliwatts / 1000, 1)


def _describe_process(process) -> dict:
    try:
        name = psutil.Process(process.pid).name()
    except psutil.Error:
        name = ""  # it ended, or runs in another container
    used = process.usedGpuMemory
    return {"pid": process.pid, "name": name, "memory_usage": None if used is None else used // MIB}


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
GAUGE_FACTORS = {"kv_usage": 100}


@dataclass(frozen=True)
class EngineMeasurement:
    """A value of one metric; `count` and `buckets` as in models.Sample."""

    metric: str
    value: float
    count: int = 1
    buckets: list[int] | None = None


class EngineMeter:
    """Reads all engines in parallel, so that an engine that hangs does not delay the others."""

    def __init__(self, threads: int = 8):
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="meter")
        self._increases = CounterIncreases[tuple[str, int, str]]()
        self._started_at = time.time()

    def read(self, instances: list[Instance]) -> Iterator[tuple[Instance, list[EngineMeasurement]]]:
        runs = {(instance.pk, instance.running_generation) for instance in instances}
        self._increases.keep_only(lambda key: key[:2] in runs)
        pages = self._pool.map(_metrics_page, (folders.socket_of(instance.pk) for instance in instances))
        for instance, page in zip(instances, pages, strict=True):
            if page is not None:
                readings = registry.get(instance.model.framework).readings(page)
                yield instance, list(self._figures(instance, readings))

    def _figures(self, instance: Instance, readings: EngineReadings) -> Iterator[EngineMeasurement]:
        for name, metric in ENGINE_GAUGES.items():
            if (value := getattr(readings, name)) is not None:
                yield EngineMeasurement(metric, value * GAUGE_FACTORS.get(name, 1))
        for name, metric in ENGINE_COUNTERS.items():
            value = getattr(readings, name)
            if value is not None and (increase := self._increase(instance, name, value)) is not None:
                yield EngineMeasurement(metric, increase)
        for name, metric in ENGINE_HISTOGRAMS.items():
            if (histogram := getattr(readings, name)) and (
                figure := self._new_observations(instance, metric, histogram)
            ):
                yield figure

    def _increase(self, instance: Instance, name: str, value: float) -> float | None:
        """The counters of an engine that became ready after this meter was created began at zero."""
        is_new = instance.ready_at is not None and instance.ready_at.timestamp() > self._started_at
        return self._increases.since_last((instance.pk, instance.running_generation, name), value, from_zero=is_new)

    def _new_observations(self, instance: Instance, metric: str, histogram: Histogram) -> EngineMeasurement | None:
        """In our buckets: each bucket of the engine is added to the one that contains its upper bound."""
        count = self._increase(instance, f"{metric} count", histogram.count)
        total = self._increase(instance, f"{metric} sum", histogram.sum)
        buckets, previous = [0] * (len(BOUNDS) + 1), 0
        for bound, cumulative in histogram.buckets:
            increase = self._increase(instance, f"{metric} {bound}", cumulative - previous)
            buckets[bisect_left(BOUNDS, bound)] += int(increase or 0)
            previous = cumulative
        return EngineMeasurement(metric, total, int(count), buckets) if count and total is not None else None


def _metrics_page(socket: Path) -> str | None:
    return probes.get_page(socket, "/metrics", timeout=ENGINE_TIMEOUT)
