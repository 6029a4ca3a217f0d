"""vLLM's engine class, but for models with the tag `fake` it starts the fake engine, with switches in `FAKE_ENGINE`."""

import json
import sys
from pathlib import Path

from core.units import MIB
from engines.base import LaunchCommand, LaunchRequest, MemoryEstimate
from engines.vllm import VllmEngine
from models_app.models import Mode

FAKE = Path(__file__).parent / "fake_engine.py"
TAG = "fake"


class FakeAwareEngine(VllmEngine):
    """The description of a fake model holds the switches as JSON."""

    def unavailable_reason(self):
        return None  # the fake needs no engine; tests with the real one have installed it

    def estimate(self, model, artefact, device_kind):
        if TAG in model.tags:
            return MemoryEstimate(weights=16 * MIB, overhead=16 * MIB, kv_cache=16 * MIB)
        return super().estimate(model, artefact, device_kind)

    def command(self, request: LaunchRequest) -> LaunchCommand:
        if TAG not in request.model.tags:
            return super().command(request)
        argv = [sys.executable, str(FAKE), "--uds", str(request.socket), "--served-model-name", request.served_name]
        if request.model.mode != Mode.CHAT:
            argv += ["--runner", "pooling"]
        if limits := self.adapter_limits(request.model):
            argv += ["--enable-lora", "--max-lora-rank", str(limits.rank)]
        switches = request.model.description or "{}"
        json.loads(switches)
        return LaunchCommand(argv, {"PATH": "/usr/bin:/bin", "FAKE_ENGINE": switches})
