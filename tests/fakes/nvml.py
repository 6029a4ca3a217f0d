"""Two cards behind NVIDIA's library; the second one, a virtual one, answers few questions."""

from types import SimpleNamespace

import pynvml
import pytest

MIB = 1024 * 1024
NAMES = ["NVIDIA RTX 4060", "NVIDIA V100"]


def _only_the_first(answer):
    def ask(handle, *_more):
        if handle:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return answer

    return ask


ANSWERS = {
    "nvmlInit": lambda: None,
    "nvmlShutdown": lambda: None,
    "nvmlSystemGetDriverVersion": lambda: "535.86.10",
    "nvmlSystemGetCudaDriverVersion": lambda: 12020,
    "nvmlDeviceGetCount": lambda: len(NAMES),
    "nvmlDeviceGetHandleByIndex": lambda index: index,
    "nvmlDeviceGetName": lambda handle: NAMES[handle],
    "nvmlDeviceGetMemoryInfo": lambda handle: SimpleNamespace(total=8192 * MIB, used=2048 * MIB),
    "nvmlDeviceGetTemperature": _only_the_first(65),
    "nvmlDeviceGetUtilizationRates": _only_the_first(SimpleNamespace(gpu=78, memory=20)),
    "nvmlDeviceGetPowerUsage": _only_the_first(350_000),
    "nvmlDeviceGetEnforcedPowerLimit": _only_the_first(450_000),
    "nvmlDeviceGetComputeRunningProcesses": _only_the_first([SimpleNamespace(pid=2**22, usedGpuMemory=1024 * MIB)]),
}


@pytest.fixture
def nvml(monkeypatch):
    for name, answer in ANSWERS.items():
        monkeypatch.setattr(pynvml, name, answer)
