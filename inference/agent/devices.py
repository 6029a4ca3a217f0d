"""The devices of this machine with real figures: main memory by psutil, GPUs by NVML."""

from dataclasses import dataclass

import psutil
import pynvml

from inference.models import DeviceKind

MAIN_MEMORY_SHARE = 0.85  # the rest is the system's and ours
GPU_SHARE = 0.95


@dataclass(frozen=True)
class Reading:
    """One device now; sizes in bytes."""

    kind: str
    index: int
    name: str
    total: int
    usable: int
    used: int


def read() -> list[Reading]:
    return [*_gpus(), _main_memory()]


def _main_memory() -> Reading:
    memory = psutil.virtual_memory()
    return Reading(
        DeviceKind.CPU,
        0,
        f"{psutil.cpu_count()} CPUs",
        memory.total,
        int(memory.total * MAIN_MEMORY_SHARE),
        memory.total - memory.available,
    )


def _gpus() -> list[Reading]:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []  # no NVIDIA driver here
    try:
        return [_gpu(index) for index in range(pynvml.nvmlDeviceGetCount())]
    finally:
        pynvml.nvmlShutdown()


def _gpu(index: int) -> Reading:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    return Reading(
        DeviceKind.CUDA,
        index,
        pynvml.nvmlDeviceGetName(handle),
        memory.total,
        int(memory.total * GPU_SHARE),
        memory.used,
    )
