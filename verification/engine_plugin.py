"""vLLM's engine class, but it starts the mock engine, which behaves as the model's description says."""

import sys
from pathlib import Path

from core.units import MIB
from engines.base import LaunchCommand, LaunchRequest, MemoryEstimate
from engines.vllm import VllmEngine

ENGINE = Path(__file__).with_name("mock_engine.py")


class MockEngine(VllmEngine):
    """A model's description holds more arguments of the mock engine."""

    def unavailable_reason(self):
        return None

    def estimate(self, model, artefact, device_kind):
        return MemoryEstimate(weights=16 * MIB, overhead=16 * MIB, kv_cache=16 * MIB)

    def command(self, request: LaunchRequest) -> LaunchCommand:
        argv = [sys.executable, "-S", str(ENGINE), "--uds", str(request.socket), *request.model.description.split()]
        return LaunchCommand(argv, {"PATH": "/usr/bin:/bin"})
