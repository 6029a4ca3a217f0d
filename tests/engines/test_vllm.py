"""vLLM's adapter: what a base claims and is told so that it takes LoRA adapters while it runs."""

from pathlib import Path

import pytest

from engines.base import LaunchCommand, LaunchRequest
from engines.llamacpp import LlamaCppEngine
from engines.vllm import VllmEngine
from models_app.artefacts import Artefact
from models_app.models import Mode, Model
from models_app.options import AdapterLimits

ADAPTER = VllmEngine()
LARGE = {
    "hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "max_position_embeddings": 8192, "vocab_size": 128_256,
}  # fmt: skip
# An adapter of all linear layers of such a model has 167,772,160 numbers at rank 64, by PEFT's count; head and
# embeddings come on top of it.
LAYERS, ENDS = 167_772_160, 64 * 2 * (4096 + 128_256)


def model(mode: Mode = Mode.CHAT, **config) -> Model:
    return Model(name="large", framework="vllm", mode=mode, config=config)


def artefact() -> Artefact:
    return Artefact(Path("/m/large"), "safetensors", 16_000_000_000, "bfloat16", LARGE, ("LlamaForCausalLM",))


def started(model: Model, kind: str = "cuda") -> LaunchCommand:
    return ADAPTER.command(
        LaunchRequest(
            model=model, served_name=model.name, path=Path("/m/large"), artefact=artefact(),
            socket=Path("/run/i/e.sock"),
            device_kind=kind,
            device_indexes=(0,), estimate=ADAPTER.estimate(model, artefact(), kind),
            work_folder=Path("/run/i"),
        )
    )  # fmt: skip


def claimed(kind: str, **config) -> int:
    """Bytes more than without adapters."""
    with_adapters = ADAPTER.estimate(model(enable_lora=True, **config), artefact(), kind)
    return with_adapters.total - ADAPTER.estimate(model(), artefact(), kind).total


def value(argv: list[str], flag: str) -> str:
    return argv[argv.index(flag) + 1]


def test_a_base_takes_adapters_when_it_is_told_so():
    assert ADAPTER.adapter_limits(model(enable_lora=True)) == AdapterLimits(rank=64, batch=4, slots=8)
    assert ADAPTER.adapter_limits(model(enable_lora=True, max_loras=16)).slots == 16
    for other in (model(), model(enable_lora=False, max_loras=2), model(Mode.EMBEDDING, enable_lora=True)):
        assert ADAPTER.adapter_limits(other) is None
    assert LlamaCppEngine().adapter_limits(model(enable_lora=True)) is None


def test_its_engine_is_told_rank_and_slots_and_to_load_while_it_runs():
    command = started(model(enable_lora=True, max_lora_rank=128, max_loras=2, max_cpu_loras=5))
    assert "--enable-lora" in command.argv
    flags = ("--max-lora-rank", "--max-loras", "--max-cpu-loras")
    assert [value(command.argv, flag) for flag in flags] == ["128", "2", "5"]
    assert command.env["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "True"


@pytest.mark.parametrize("config", [{}, {"max_loras": 2, "max_lora_rank": 8}])
def test_the_engine_of_another_model_has_no_such_routes(config):
    command = started(model(**config))
    assert not [word for word in command.argv if "lora" in word]
    assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING" not in command.env


def test_a_batch_of_adapters_is_claimed_at_the_highest_rank():
    assert claimed("cuda") == 4 * 2 * (LAYERS + ENDS)
    assert claimed("cuda", max_loras=1, max_lora_rank=8) == 2 * (LAYERS + ENDS) // 8


def test_in_main_memory_all_that_are_loaded_are_claimed_too():
    assert claimed("cpu", dtype="bfloat16") - claimed("cpu", dtype="bfloat16", max_loras=1) == 3 * 2 * (LAYERS + ENDS)
    assert claimed("cpu", max_loras=1, max_cpu_loras=1) == 2 * 4 * (LAYERS + ENDS)
