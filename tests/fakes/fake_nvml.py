"""A fake NVML with two GPUs; the second one is virtual and supports few queries."""

from types import SimpleNamespace

import pynvml
import pytest

from core.units import MIB

NAMES = ["NVIDIA RTX 4060", "NVIDIA V100"]


def _first_gpu_only(answer):
    def query(handle, *_more):
        if handle:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return answer

    return query


ANSWERS = {
    "nvmlInit": lambda: None,
    "nvmlShutdown": lambda: None,
    "nvmlSystemGetDriverVersion": lambda: "535.86.10",
    "nvmlSystemGetCudaDriverVersion": lambda: 12020,
    "nvmlDeviceGetCount": lambda: len(NAMES),
    "nvmlDeviceGetHandleByIndex": lambda index: index,
    "nvmlDeviceGetName": lambda handle: NAMES[handle],
    "nvmlDeviceGetMemoryInfo": lambda handle: SimpleNamespace(total=8192 * MIB, used=2048 * MIB),
    "nvmlDeviceGetTemperature": _first_gpu_only(65),
    "nvmlDeviceGetUtilizationRates": _first_gpu_only(SimpleNamespace(gpu=78, memory=20)),
    "nvmlDeviceGetPowerUsage": _first_gpu_only(350_000),
    "nvmlDeviceGetEnforcedPowerLimit": _first_gpu_only(450_000),
    "nvmlDeviceGetComputeRunningProcesses": _first_gpu_only([SimpleNamespace(pid=2**22, usedGpuMemory=1024 * MIB)]),
}


@pytest.fixture
def nvml(monkeypatch):
    for name, answer in ANSWERS.items():
        monkeypatch.setattr(pynvml, name, answer)
