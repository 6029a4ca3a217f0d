"""Measures the devices of this machine: cores and main memory with psutil, GPUs with NVML."""

from dataclasses import dataclass, field

import psutil
import pynvml

from inference.models import DeviceKind

MAIN_MEMORY_SHARE = 0.85  # the rest is for the system and the platform
GPU_SHARE = 0.95
CPU_SENSORS = {"coretemp", "k10temp", "zenpower", "cpu_thermal"}


@dataclass(frozen=True)
class DeviceReading:
    """One measurement of a device: sizes in bytes, the temperature in °C if it has a sensor, cores of a CPU.

    `bytes_by_pid` covers the processes on a GPU. `unowned` is memory that is not freed by the end of a process: shared
    memory and RAM disks, or GPU memory that the driver attributes to no process.
    """

    kind: str
    index: int
    name: str
    total: int
    usable: int
    used: int
    cores: int | None = None
    temperature: int | None = None
    bytes_by_pid: dict[int, int] = field(default_factory=dict)
    unowned: int = 0

    @property
    def key(self) -> tuple[str, int]:
        return self.kind, self.index


def read_devices() -> list[DeviceReading]:
    return [*_gpus(), _main_memory()]


def _main_memory() -> DeviceReading:
    memory = psutil.virtual_memory()
    return DeviceReading(
        DeviceKind.CPU,
        0,
        f"{psutil.cpu_count()} CPUs",
        memory.total,
        int(memory.total * MAIN_MEMORY_SHARE),
        memory.total - memory.available,
        cores=psutil.cpu_count(),
        temperature=_cpu_temperature(),
        unowned=getattr(memory, "shared", 0),  # not on every platform
    )


def _cpu_temperature() -> int | None:
    """The hottest sensor of the processor; virtual machines and many boards have none."""
    read_sensors = getattr(psutil, "sensors_temperatures", dict)  # not on every platform
    found = [sensor.current for chip, sensors in read_sensors().items() if chip in CPU_SENSORS for sensor in sensors]
    return round(max(found)) if found else None


def _gpus() -> list[DeviceReading]:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []  # no NVIDIA driver here
    try:
        return [_gpu(index) for index in range(pynvml.nvmlDeviceGetCount())]
    finally:
        pynvml.nvmlShutdown()


def _gpu(index: int) -> DeviceReading:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    memory, holders = pynvml.nvmlDeviceGetMemoryInfo(handle), _bytes_by_pid(handle)
    return DeviceReading(
        DeviceKind.CUDA,
        index,
        pynvml.nvmlDeviceGetName(handle),
        memory.total,
        int(memory.total * GPU_SHARE),
        memory.used,
        temperature=_gpu_temperature(handle),
        bytes_by_pid=holders,
        unowned=max(0, memory.used - sum(holders.values())),
    )


def _bytes_by_pid(handle: object) -> dict[int, int]:
    """Bytes by pid, without processes whose memory the driver does not report. In a container it may report none."""
    try:
        found = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
    except pynvml.NVMLError:
        return {}
    return {process.pid: process.usedGpuMemory for process in found if process.usedGpuMemory}


def _gpu_temperature(handle: object) -> int | None:
    try:
        return int(pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU))
    except pynvml.NVMLError:
        return None  # virtual GPUs do not report it
