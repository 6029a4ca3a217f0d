"""The options of a model's `config`: a typed table per engine. Options outside of it are refused by name."""

from dataclasses import dataclass
from typing import Any

from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy as lazy

from core.client_names import printable_name
from core.errors import InvalidRequest
from core.units import MIB

MAX_TEXT_LENGTH, MAX_STOP_LENGTH, MAX_STOPS = 500, 256, 16


@dataclass(frozen=True)
class Option:
    """One option: `kind` is int, float, bool, str or list (of texts); a number lies between `low` and `high`."""

    name: str
    kind: type
    help: Promise | str
    low: float = 0
    high: float = 0
    choices: tuple = ()

    def problem(self, value) -> str:
        """What is wrong with `value`; empty if nothing is."""
        if self.choices:
            known = type(value) is self.kind and value in self.choices
            return "" if known else _("Expected one of: %(choices)s.") % {"choices": ", ".join(map(str, self.choices))}
        return getattr(self, f"_{self.kind.__name__}_problem")(value)

    def _bool_problem(self, value) -> str:
        return "" if type(value) is bool else _("Expected true or false.")

    def _int_problem(self, value) -> str:
        if type(value) is int and self.low <= value <= self.high:
            return ""
        return _("Expected a whole number from %(low)s to %(high)s.") % {"low": self.low, "high": self.high}

    def _float_problem(self, value) -> str:
        if type(value) in (int, float) and self.low <= value <= self.high:
            return ""
        return _("Expected a number from %(low)s to %(high)s.") % {"low": self.low, "high": self.high}

    def _str_problem(self, value) -> str:
        if isinstance(value, str) and 0 < len(value) <= MAX_TEXT_LENGTH and value.isprintable():
            return ""
        return _("Expected a text of 1 to %(most)d visible characters.") % {"most": MAX_TEXT_LENGTH}

    def _list_problem(self, value) -> str:
        if isinstance(value, list) and len(value) <= MAX_STOPS and all(map(_is_stop, value)):
            return ""
        return _("Expected a list of at most %(most)d texts of 1 to %(longest)d characters.") % {
            "most": MAX_STOPS,
            "longest": MAX_STOP_LENGTH,
        }

    def schema(self) -> dict:
        """The option as a JSON schema, for the API's description."""
        kinds = {int: "integer", float: "number", bool: "boolean", str: "string", list: "array"}
        schema: dict[str, Any] = {"type": kinds[self.kind], "description": str(self.help)}
        if self.choices:
            schema["enum"] = list(self.choices)
        elif self.kind in (int, float):
            schema |= {"minimum": self.low, "maximum": self.high}
        elif self.kind is list:
            schema |= {"items": {"type": "string"}, "maxItems": MAX_STOPS}
        return schema


def _is_stop(value) -> bool:
    """A stop text may contain line breaks, but nothing that Postgres or UTF-8 cannot store."""
    return (
        isinstance(value, str)
        and 0 < len(value) <= MAX_STOP_LENGTH
        and not any(character == "\0" or "\ud800" <= character <= "\udfff" for character in value)
    )


TOOL_PARSERS = (
    "cohere_command3", "cohere_command4", "deepseek_v3", "deepseek_v31", "deepseek_v32", "ernie45", "functiongemma",
    "gemma4", "gigachat3", "glm45", "glm47", "granite", "granite-20b-fc", "granite4", "hermes", "hunyuan_a13b",
    "internlm", "jamba", "kimi_k2", "lfm2", "llama3_json", "llama4_json", "llama4_pythonic", "longcat", "minimax_m2",
    "mistral", "olmo3", "openai", "phi4_mini_json", "pythonic", "qwen3_coder", "qwen3_xml", "seed_oss", "step3", "xlam",
)  # fmt: skip
QUANTIZATIONS = (
    "auto_awq", "auto_gptq", "awq", "compressed-tensors", "experts_int8", "fp8", "gptq", "modelopt", "mxfp4",
)  # fmt: skip
CHAT_FORMATS = ("chatml", "gemma", "llama-2", "llama-3", "mistral-instruct", "qwen", "vicuna", "zephyr")

FILES = [
    Option("model_path", str, lazy("Folder or file of the weights, below the tenant's folder or a shared root.")),
    Option("model_name", str, lazy("Hub id of weights that were added under it.")),
]
SAMPLING = [
    Option("temperature", float, lazy("For requests that name none."), 0, 2),
    Option("top_p", float, lazy("For requests that name none."), 0.000001, 1),
    Option("top_k", int, lazy("For requests that name none; -1 or 0 means all tokens."), -1, 1_000_000),
    Option("max_tokens", int, lazy("For requests that name none."), 1, 10_000_000),
    Option("presence_penalty", float, lazy("For requests that name none."), -2, 2),
    Option("frequency_penalty", float, lazy("For requests that name none."), -2, 2),
    Option("stop", list, lazy("For requests that name none.")),
]
CONTEXT = [Option("n_ctx", int, lazy("Tokens of prompt and answer together."), 16, 10_000_000)]
VLLM = [
    Option("max_model_len", int, lazy("The same as n_ctx, by the engine's own name."), 16, 10_000_000),
    Option("dtype", str, lazy("Type that weights are computed in."),
           choices=("auto", "float32", "float16", "bfloat16", "half", "float")),
    Option("kv_cache_bytes", int, lazy("Memory of the KV cache; by default enough for some full sequences."),
           16 * MIB, 2**43),
    Option("max_num_seqs", int, lazy("Sequences that are computed at once."), 1, 4096),
    Option("tensor_parallel_size", int, lazy("GPUs that share the model."), 1, 64),
    Option("block_size", int, lazy("Tokens in a block of the KV cache."), choices=(8, 16, 32, 64, 128, 256)),
    Option("seed", int, lazy("Start of the random numbers."), 0, 2**31 - 1),
    Option("enable_prefix_caching", bool, lazy("Keep the KV cache of common beginnings.")),
    Option("enforce_eager", bool, lazy("Without CUDA graphs: starts sooner, runs slower.")),
    Option("quantization", str, lazy("By default as the weights say."), choices=QUANTIZATIONS),
    Option("enable_auto_tool_choice", bool, lazy("Let the model call tools.")),
    Option("tool_call_parser", str, lazy("How the model writes its calls of tools."), choices=TOOL_PARSERS),
    Option("enable_lora", bool, lazy("Serve adapters of this model.")),
    Option("max_lora_rank", int, lazy("Highest rank of an adapter."), choices=(1, 8, 16, 32, 64, 128, 256, 320, 512)),
    Option("max_loras", int, lazy("Adapters in one batch."), 1, 64),
    Option("max_cpu_loras", int, lazy("Adapters that are loaded at once, in one batch or not."), 1, 512),
    Option("stream_chunk_size", int, lazy("Tokens in an event of a stream."), 1, 1024),
    Option("allow_auto_tuning", bool, lazy("Let the platform choose what is not set here.")),
]  # fmt: skip
LLAMA_CPP = [
    Option("n_threads", int, lazy("Threads of the CPU."), 1, 1024),
    Option("n_gpu_layers", int, lazy("Layers on the GPU; -1 means all."), -1, 10_000),
    Option("n_parallel", int, lazy("Sequences that are computed at once; each has the whole n_ctx."), 1, 256),
    Option("n_batch", int, lazy("Tokens of a prompt that are computed at once."), 1, 65_536),
    Option("n_ubatch", int, lazy("Tokens of a batch that take memory at once."), 1, 65_536),
    Option("kv_cache_type", str, lazy("Type of the numbers in the KV cache."), choices=("f16", "bf16", "f32", "q8_0")),
    Option("seed", int, lazy("Start of the random numbers."), 0, 2**31 - 1),
    Option("chat_format", str, lazy("By default the template in the weights."), choices=CHAT_FORMATS),
    Option("lora_path", str, lazy("GGUF file of an adapter that is applied to all requests; where weights may lie.")),
]
RESOURCES = [
    Option("gpu_count", int, lazy("GPUs."), 0, 1024),
    Option("gpu_memory", int, lazy("MiB on each GPU."), 0, 10_000_000),
    Option("cpu_cores", float, lazy("Cores."), 0, 4096),
    Option("memory", int, lazy("MiB of main memory."), 0, 100_000_000),
]

Table = dict[str, Option]


def _table(*groups: list[Option]) -> Table:
    return {option.name: option for group in groups for option in group}


ENGINES: dict[str, Table] = {
    "vllm": _table(FILES, CONTEXT, VLLM, SAMPLING),
    "llama.cpp": _table(FILES, CONTEXT, LLAMA_CPP, SAMPLING),
}
RESOURCE_TABLE = _table(RESOURCES)

# Options that engines have and tenants may not set, and why.
REFUSED_OPTIONS = [
    (lazy("It would run code that comes with the weights."), (
        "trust_remote_code", "code_revision", "tool_parser_plugin", "reasoning_parser_plugin", "io_processor_plugin",
        "logits_processors", "middleware", "worker_cls", "worker_extension_cls", "scheduler_cls", "load_format",
        "model_loader_extra_config", "hf_overrides", "compilation_config", "kv_transfer_config", "additional_config",
        "speculative_config",
    )),
    (lazy("Engines listen where the platform says."), (
        "host", "port", "uds", "root_path", "allowed_origins", "allow_credentials", "ssl_keyfile", "ssl_certfile",
        "ssl_ca_certs", "ssl_cert_reqs", "data_parallel_address", "distributed_executor_backend", "rpc_servers",
        "rpc", "ssl_key_file", "ssl_cert_file", "api_prefix", "reuse_port", "cors_origins", "slots", "props", "ui",
    )),
    (lazy("It would let callers run programs or reach other machines."), (
        "tools", "tools_runtime", "agent", "mcp_servers_config", "mcp_servers_json", "ui_mcp_proxy",
        "webui_mcp_proxy", "hf_repo", "hf_file", "model_url", "mmproj_url", "docker_repo", "models_dir",
        "models_preset",
    )),
    (lazy("Keys are the platform's; the engine has none."), ("api_key", "api_key_file", "hf_token")),
    (lazy("It is the model's name."), ("served_model_name", "model_alias", "model")),
    (lazy("Templates come with the model; one from outside could run code."), (
        "chat_template", "chat_template_file", "chat_template_content_format", "trust_request_chat_template",
    )),
    (lazy("Only files of the model itself are read."), (
        "tokenizer", "tokenizer_mode", "hf_config_path", "hf_model_repo_id", "hf_tokenizer_config_path",
        "generation_config", "download_dir", "lora_modules", "lora_path", "lora_base", "clip_model_path",
        "allowed_local_media_path", "revision", "tokenizer_revision", "lora", "lora_scaled", "control_vector", "mmproj",
        "media_path", "slot_save_path", "path", "log_file", "log_prompts_dir", "override_kv", "override_tensor",
        "grammar_file", "json_schema_file", "lookup_cache_static", "lookup_cache_dynamic", "spec_draft_model",
    )),
    (lazy("Memory is claimed in bytes: set kv_cache_bytes."), (
        "gpu_memory_utilization", "kv_cache_memory_bytes", "swap_space", "cpu_offload_gb", "num_gpu_blocks_override",
    )),
    (lazy("Memory is claimed before the start: set n_ctx and n_parallel."), (
        "fit", "fit_target", "fit_ctx", "cache_ram", "kv_unified", "ctx_size", "parallel", "mlock", "no_mmap",
        "n_gpu_layers_draft", "ctx_checkpoints",
    )),
]  # fmt: skip
REFUSAL_REASONS = {name: reason for reason, names in REFUSED_OPTIONS for name in names}


def context_length(config: dict) -> int | None:
    """Tokens of one sequence, prompt and answer together, under either engine's name; None: the model's own length."""
    return config.get("max_model_len") or config.get("n_ctx")


@dataclass(frozen=True)
class AdapterLimits:
    """Adapter limits of a base model: the highest rank, adapters in one batch, and adapters loaded at once."""

    rank: int
    batch: int
    slots: int


def adapter_limits(config: dict) -> AdapterLimits | None:
    """None for a base model that accepts no adapters."""
    if not config.get("enable_lora"):
        return None
    batch = config.get("max_loras", 4)
    return AdapterLimits(config.get("max_lora_rank", 64), batch, max(batch, config.get("max_cpu_loras", 8)))


def check_config(framework: str, config) -> None:
    """Raises InvalidRequest with a message for each wrong option."""
    if framework not in ENGINES:
        engines = ", ".join(ENGINES)
        raise InvalidRequest(details={"framework": _("Expected one of: %(choices)s.") % {"choices": engines}})
    _check("config", ENGINES[framework], config)
    lengths = {config[name] for name in ("n_ctx", "max_model_len") if name in config}
    if len(lengths) > 1:
        raise InvalidRequest(details={"config.n_ctx": _("It contradicts max_model_len.")})
    if config.get("max_cpu_loras", 512) < config.get("max_loras", 1):
        raise InvalidRequest(details={"config.max_cpu_loras": _("It is less than max_loras.")})


def check_resources(resources) -> None:
    """Raises InvalidRequest with a message for each wrong value."""
    _check("resource_requirements", RESOURCE_TABLE, resources)


def schema(*tables: Table) -> dict:
    """The tables as one JSON schema, for the API's description."""
    options = {name: option.schema() for table in tables for name, option in table.items()}
    return {"type": "object", "properties": options, "additionalProperties": False}


def problems(field: str, table: Table, values) -> dict[str, str]:
    """The problems in `values`: the path of each wrong option, below `field` → a message."""
    if not isinstance(values, dict):
        return {field: _("Expected an object.")}
    messages = {f"{field}.{printable_name(name)}": _find_problem(table, name, value) for name, value in values.items()}
    return {name: problem for name, problem in messages.items() if problem}


def _check(field: str, table: Table, values) -> None:
    if wrong := problems(field, table, values):
        raise InvalidRequest(details=wrong)


def _find_problem(table: Table, name: str, value) -> str:
    if name in table:
        return table[name].problem(value)
    if reason := REFUSAL_REASONS.get(name.lower().lstrip("-").replace("-", "_")):
        return _("This option is refused. %(why)s") % {"why": reason}
    return _("There is no such option.")
