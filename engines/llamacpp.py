"""llama.cpp's server for GGUF files, always on a Unix socket and with an explicit KV cache length."""

from collections.abc import Mapping
from dataclasses import replace

from core.units import GIB, MIB
from engines import install
from engines.base import Engine, EngineReadings, LaunchCommand, LaunchRequest, MemoryEstimate, Symptom
from engines.crash_cause import Cause
from engines.launch_environment import cuda_variables
from engines.memory import context_length, cpu_threads, kv_bytes_per_token
from models_app.artefacts import Artefact
from models_app.models import Mode, Model

# Bytes of one number in the KV cache; q8_0 stores 32 of them in 34 bytes.
KV_WIDTHS = {"f32": 4, "f16": 2, "bf16": 2, "q8_0": 34 / 32}
MAX_KV_BYTES = {"cpu": 1 * GIB, "cuda": 8 * GIB}
MAX_DEFAULT_SLOTS = 4  # by default, if so many sequences of full length fit the limit
CONTEXT_STEP = 256  # the engine rounds a sequence's length up to it
BASE_BYTES = {
    "cpu": 64 * MIB,
    "cuda": 700 * MIB,
}  # the process, on CUDA with its context; measured for cpu, assumed for cuda
UBATCH = 512  # the engine's default number of tokens computed at once
ALL_LAYERS = 999

# llama-cpp-python's name of a chat format → the engine's name of the same template.
TEMPLATES = {
    "chatml": "chatml", "qwen": "chatml", "gemma": "gemma", "llama-2": "llama2", "llama-3": "llama3",
    "mistral-instruct": "mistral-v1", "vicuna": "vicuna", "zephyr": "zephyr",
}  # fmt: skip
VALUE_OPTIONS = {
    "n_batch": "--batch-size",
    "n_ubatch": "--ubatch-size",
    "seed": "--seed",
    "kv_cache_type": "--cache-type-k",
}


class LlamaCppEngine(Engine):
    name, title = "llama.cpp", "llama.cpp"
    reading_names = {
        "running": "llamacpp:requests_processing",
        "waiting": "llamacpp:requests_deferred",
        "prompt_tokens": "llamacpp:prompt_tokens_total",
        "generation_tokens": "llamacpp:tokens_predicted_total",
        "cached_tokens": "llamacpp:prompt_tokens_cached_total",
    }
    symptoms = [
        Symptom(r"error: invalid argument: (\S+)", "The engine does not know the option {0}.", Cause.BAD_OPTION),
        Symptom(
            r"unknown model architecture: '([^']+)'",
            "The engine does not support the architecture {0}.",
            Cause.BROKEN_WEIGHTS,
        ),
        Symptom(
            r"not within the file bounds|invalid magic|missing tensor|wrong number of tensors|failed to read",
            "The weights are damaged.",
            Cause.BROKEN_WEIGHTS,
        ),
        Symptom(r"failed to open GGUF file .*\((.+)\)", "The weights cannot be opened: {0}.", Cause.MISSING_FILE),
        Symptom(r"(?:failed|unable) to allocate", "The engine ran out of memory.", Cause.OUT_OF_MEMORY),
        Symptom(r"error loading model: ([^/]{1,300})$", "{0}"),
    ]

    def readings(self, metrics: str) -> EngineReadings:
        """The engine does not count cached tokens as prompt tokens."""
        found = super().readings(metrics)
        if found.prompt_tokens is None or found.cached_tokens is None:
            return found
        return replace(found, prompt_tokens=found.prompt_tokens + found.cached_tokens)

    def estimate(self, model: Model, artefact: Artefact, device_kind: str) -> MemoryEstimate:
        kv_cache = slots(model, artefact, device_kind) * _sequence_bytes(model, artefact)
        return MemoryEstimate(
            artefact.weight_bytes, BASE_BYTES[device_kind] + _compute_bytes(model, artefact), kv_cache
        )

    def command(self, request: LaunchRequest) -> LaunchCommand:
        model, artefact = request.model, request.artefact
        sequences = slots(model, artefact, request.device_kind)
        argv = [
            str(install.engine_program(self.name)),
            "--model",
            str(request.path),
            "--alias",
            request.served_name,
            "--host",
            str(request.socket),
            "--ctx-size",
            str(sequences * _sequence_tokens(model, artefact)),
            "--parallel",
            str(sequences),
            "--no-kv-unified",
            "--cache-ram",
            "0",
            "--fit",
            "off",
            "--threads",
            str(model.config.get("n_threads") or cpu_threads()),
            "--metrics",
            "--no-slots",
            "--no-ui",
            "--offline",
            *(["--lora", str(artefact.adapter)] if artefact.adapter else []),
            *_model_arguments(model, artefact),
            *_device_arguments(request),
        ]
        return LaunchCommand(argv, _environment(request))


def slots(model: Model, artefact: Artefact, device_kind: str) -> int:
    """Sequences computed at once: as configured, else as many of full length as fit the limit."""
    fitting = MAX_KV_BYTES[device_kind] // max(1, _sequence_bytes(model, artefact))
    return model.config.get("n_parallel") or max(1, min(MAX_DEFAULT_SLOTS, fitting))


def _sequence_tokens(model: Model, artefact: Artefact) -> int:
    return -(-context_length(model, artefact) // CONTEXT_STEP) * CONTEXT_STEP


def _sequence_bytes(model: Model, artefact: Artefact) -> int:
    width = KV_WIDTHS[model.config.get("kv_cache_type", "f16")]
    return _sequence_tokens(model, artefact) * kv_bytes_per_token(artefact.parameters, width)


def _compute_bytes(model: Model, artefact: Artefact) -> int:
    """Memory to compute a batch: its logits and some activations, four bytes each."""
    batch = _ubatch(model, artefact)
    hidden, vocabulary = (artefact.parameters.get(name) or 0 for name in ("hidden_size", "vocab_size"))
    return batch * (vocabulary + 16 * hidden) * 4


def _ubatch(model: Model, artefact: Artefact) -> int:
    """Tokens computed at once. Models that pool must process a whole text at once."""
    if model.mode != Mode.CHAT:
        return _sequence_tokens(model, artefact)
    configured: int = model.config.get("n_ubatch", UBATCH)
    return configured


def _model_arguments(model: Model, artefact: Artefact) -> list[str]:
    config, arguments = model.config, []
    for option, flag in VALUE_OPTIONS.items():
        if option in config:
            arguments += [flag, str(config[option])]
    if "kv_cache_type" in config:
        arguments += ["--cache-type-v", config["kv_cache_type"]]
    if model.mode == Mode.CHAT:
        return arguments + _template_arguments(config)
    whole = str(_ubatch(model, artefact))
    arguments += ["--batch-size", whole, "--ubatch-size", whole]
    if model.mode == Mode.RERANKER:
        return [*arguments, "--rerank"]
    return [*arguments, "--embeddings", *([] if artefact.is_pooling else ["--pooling", "mean"])]


def _template_arguments(config: Mapping[str, str]) -> list[str]:
    """The engine's own templates do not use Jinja. The model's own template supports tools."""
    if "chat_format" in config:
        return ["--no-jinja", "--chat-template", TEMPLATES[config["chat_format"]]]
    return ["--jinja"]


def _device_arguments(request: LaunchRequest) -> list[str]:
    if request.device_kind == "cpu":
        return ["--device", "none", "--gpu-layers", "0"]
    layers = request.model.config.get("n_gpu_layers", -1)
    return ["--gpu-layers", str(ALL_LAYERS if layers < 0 else layers)]


def _environment(request: LaunchRequest) -> dict[str, str]:
    common = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(request.work_folder), "LANG": "C.UTF-8"}
    return common if request.device_kind == "cpu" else common | cuda_variables(request.device_indexes)
