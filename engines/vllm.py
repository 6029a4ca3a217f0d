"""vLLM, on CPU and CUDA, always on a Unix socket and with explicit KV bytes."""

import re
from pathlib import Path

from django.conf import settings

from core.units import GIB, MIB
from engines import install
from engines.base import AdapterRoutes, Engine, LaunchCommand, LaunchRequest, MemoryEstimate, Symptom
from engines.crash_cause import Cause
from engines.launch_environment import OFFLINE, cuda_variables
from engines.memory import adapter_bytes, configured_context, context_length, cpu_threads, kv_bytes_per_token
from models_app.artefacts import Artefact
from models_app.models import Mode, Model

DTYPE_BYTES = {"float32": 4, "float": 4, "bfloat16": 2, "float16": 2, "half": 2}
# Measured resident size of the server and engine processes without weights and cache (docs/engines.md).
OVERHEAD = {"cpu": 1400 * MIB, "cuda": 1700 * MIB}
MAX_KV_BYTES = {"cpu": 1 * GIB, "cuda": 8 * GIB}
MIN_KV_BYTES = 64 * MIB
DEFAULT_SEQUENCES = 8  # the default cache fits this many sequences of full length, within the limit
# Encoders read a text at once and use no KV cache, also when they pool.
ENCODERS = re.compile(r"Bert|Roberta|Gte")
# Without the option the engine claims nearly all memory of the machine, even if it caches nothing.
MIN_KV_ARGUMENT = 1 * MIB

LAUNCHER = Path(__file__).parent / "launchers" / "vllm_on_cpu.py"

# Options that reach the command line as `--name value`; everything else in `config` is for the gateway.
VALUE_OPTIONS = {
    "max_num_seqs": "--max-num-seqs",
    "quantization": "--quantization",
    "seed": "--seed",
    "block_size": "--block-size",
    "stream_chunk_size": "--stream-interval",
}
SWITCHES = {"enable_prefix_caching": "enable-prefix-caching"}


class VllmEngine(Engine):
    name, title = "vllm", "vLLM"
    adapter_routes = AdapterRoutes("/v1/load_lora_adapter", "/v1/unload_lora_adapter")
    reading_names = {
        "running": "vllm:num_requests_running",
        "waiting": "vllm:num_requests_waiting",
        "kv_usage": "vllm:kv_cache_usage_perc",  # a share of 1, in spite of its name
        "prompt_tokens": "vllm:prompt_tokens_total",
        "generation_tokens": "vllm:generation_tokens_total",
        "cached_tokens": "vllm:prompt_tokens_cached_total",
        "prefix_queries": "vllm:prefix_cache_queries_total",
        "prefix_hits": "vllm:prefix_cache_hits_total",
        "preemptions": "vllm:num_preemptions_total",
        "ttft": "vllm:time_to_first_token_seconds",
        "tpot": "vllm:request_time_per_output_token_seconds",
    }
    symptoms = [
        Symptom(r"unrecognized arguments: (.+)", "The engine does not know the option {0}.", Cause.BAD_OPTION),
        Symptom(
            r"larger than the maximum number of tokens that can be stored in KV cache|KV cache.* is needed",
            "The KV cache is too small for one sequence of full length: raise kv_cache_bytes or lower max_model_len.",
            Cause.OUT_OF_MEMORY,
        ),
        Symptom(
            r"Model architectures? \[?'?([\w]+)'?\]? (?:are|is) not supported",
            "The engine does not support the architecture {0}.",
            Cause.BROKEN_WEIGHTS,
        ),
        Symptom(
            r"SafetensorError|Error while deserializing header|corrupt",
            "The weights are damaged.",
            Cause.BROKEN_WEIGHTS,
        ),
        Symptom(
            r"((?:RuntimeError|ValueError|AssertionError): .*(?:exceeds dimension size|size of tensor|[Ss]hape mismatch"
            r"|size mismatch|Attempted to load weight|no module or parameter named|were not initialized).{0,200})",
            "The weights do not fit the model's config.json: {0}",
            Cause.BROKEN_WEIGHTS,
        ),
        Symptom(r"has no attribute 'init_cpu_memory_env'", "The library libnuma is missing: apt-get install libnuma1."),
        Symptom(
            r"^\S*\s*(?:\S+ )*?((?!RuntimeError: Engine core init)(?:Value|Runtime|Assertion|OS)Error: .{1,300})", "{0}"
        ),
    ]

    def estimate(self, model: Model, artefact: Artefact, device_kind: str) -> MemoryEstimate:
        width = DTYPE_BYTES[self._dtype(model, device_kind)]
        stored = DTYPE_BYTES.get(artefact.dtype, 2)
        weights = artefact.weight_bytes * (width if "quantization" not in model.config else stored) // stored
        overhead = OVERHEAD[device_kind] + self._adapter_bytes(model, artefact, device_kind, width)
        return MemoryEstimate(weights, overhead, self._kv_bytes(model, artefact, device_kind, width))

    def _adapter_bytes(self, model: Model, artefact: Artefact, device_kind: str, width: int) -> int:
        """Room for one batch at the highest rank, allocated at the start; in main memory also for all loaded ones."""
        limits = self.adapter_limits(model)
        if limits is None:
            return 0
        count = limits.batch + (limits.slots if device_kind == "cpu" else 0)
        return count * adapter_bytes(artefact.parameters, limits.rank, width)

    def _kv_bytes(self, model: Model, artefact: Artefact, device_kind: str, width: int) -> int:
        given: int | None = model.config.get("kv_cache_bytes")
        if given:
            return given
        if is_encoder(artefact):
            return 0
        per_token = kv_bytes_per_token(artefact.parameters, width)
        sequence = per_token * context_length(model, artefact)
        sequences = DEFAULT_SEQUENCES if model.mode == Mode.CHAT else 1  # the cache is free again once a text is read
        wanted = min(sequences * sequence, MAX_KV_BYTES[device_kind])
        return max(wanted, sequence + sequence // 8, MIN_KV_BYTES)

    def _dtype(self, model: Model, device_kind: str) -> str:
        wanted: str = model.config.get("dtype", "auto")
        if wanted != "auto":
            return wanted
        return "float32" if device_kind == "cpu" else "bfloat16"

    def command(self, request: LaunchRequest) -> LaunchCommand:
        argv = [
            str(self._python()),
            *self._program(request.device_kind),
            "--model",
            str(request.path),
            "--served-model-name",
            request.served_name,
            "--uds",
            str(request.socket),
            "--kv-cache-memory-bytes",
            str(request.estimate.kv_cache or MIN_KV_ARGUMENT),
            "--enable-request-id-headers",
            "--enable-prompt-tokens-details",
            "--disable-uvicorn-access-log",
            *self._model_arguments(request),
            *self._device_arguments(request),
        ]
        return LaunchCommand(argv, self._environment(request))

    def _program(self, device_kind: str) -> list[str]:
        """CUDA must not be initialised before a fork, so on GPUs vLLM's own module chooses how its processes start."""
        return [str(LAUNCHER)] if device_kind == "cpu" else ["-m", "vllm.entrypoints.openai.api_server"]

    def _python(self) -> Path:
        return install.environment_python(self.name)

    def _model_arguments(self, request: LaunchRequest) -> list[str]:
        config = request.model.config
        arguments = _length_arguments(request)
        for option, flag in VALUE_OPTIONS.items():
            if option in config:
                arguments += [flag, str(config[option])]
        for option, flag in SWITCHES.items():
            if option in config:
                arguments.append(f"--{flag}" if config[option] else f"--no-{flag}")
        if limits := self.adapter_limits(request.model):
            arguments += ["--enable-lora", "--max-lora-rank", str(limits.rank)]
            arguments += ["--max-loras", str(limits.batch), "--max-cpu-loras", str(limits.slots)]
        if request.model.mode == Mode.CHAT and config.get("enable_auto_tool_choice", True):
            arguments += ["--enable-auto-tool-choice", "--tool-call-parser", config.get("tool_call_parser", "hermes")]
        if request.model.mode != Mode.CHAT:
            arguments += ["--runner", "pooling"]
        return arguments

    def _device_arguments(self, request: LaunchRequest) -> list[str]:
        dtype = self._dtype(request.model, request.device_kind)
        if request.device_kind == "cpu":
            return ["--dtype", dtype, "--enforce-eager"]
        arguments = ["--dtype", request.model.config.get("dtype", "auto")]
        arguments += ["--tensor-parallel-size", str(len(request.device_indexes))]  # as it was placed
        return arguments + (["--enforce-eager"] if request.model.config.get("enforce_eager") else [])

    def _environment(self, request: LaunchRequest) -> dict[str, str]:
        common = {
            "PATH": f"{self._python().parent}:/usr/local/bin:/usr/bin:/bin",
            "HOME": str(request.work_folder),
            "LANG": "C.UTF-8",
            "VLLM_NO_USAGE_STATS": "1",
            **OFFLINE,
            "VLLM_CACHE_ROOT": str(settings.CACHE_DIR / "vllm"),
        }
        if self.adapter_limits(request.model):
            common["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "True"
        on_cpu = request.device_kind == "cpu"
        return common | (self._cpu_environment() if on_cpu else cuda_variables(request.device_indexes))

    def _cpu_environment(self) -> dict[str, str]:
        return {
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine process is its own worker: one import less
            "OMP_NUM_THREADS": str(cpu_threads()),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # the default binds every engine to the same cores
            "TORCH_COMPILE_DISABLE": "1",  # else the first request with logprobs compiles C++ for ten seconds
        }


def is_encoder(artefact: Artefact) -> bool:
    """An encoder has no KV cache, and the engine determines its length better than its config."""
    return any(ENCODERS.search(name) for name in artefact.architectures)


def _length_arguments(request: LaunchRequest) -> list[str]:
    if is_encoder(request.artefact) and not configured_context(request.model):
        return []
    return ["--max-model-len", str(context_length(request.model, request.artefact))]
