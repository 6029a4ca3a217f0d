"""An engine that an operator wrote before the engines moved: old paths, old names."""

from inference.engines.base import MIB, Command, Estimate, LaunchRequest, Readings, Symptom
from inference.engines.base import EngineAdapter as Base
from inference.engines.llamacpp import LlamaCppAdapter
from inference.engines.memory import cpu_threads
from inference.engines.vllm import VllmAdapter


class OldEngine(Base):
    name, title = "old", "Old engine"
    symptoms = [Symptom("boom", "It went boom.")]

    def unavailable_because(self) -> str | None:
        return "It rests."

    def estimate(self, model, artefact, device_kind) -> Estimate:
        return Estimate(MIB, 0, 0)

    def command(self, request: LaunchRequest) -> Command:
        return Command(["old", str(cpu_threads())], {})

    def readings(self, metrics: str) -> Readings:
        return Readings(running=1)


class OldVllm(VllmAdapter):
    """Changes one thing, and asks the engine of ours for the rest."""

    name = "old vllm"

    def unavailable_because(self) -> str | None:
        return super().unavailable_because() or "It rests, too."


class OldLlama(LlamaCppAdapter):
    name = "old llama"
