"""What a model's `config` may say: a typed table per engine. What is not in it is refused by name."""

import math
from dataclasses import dataclass

from django.utils.translation import gettext as _

from core.errors import InvalidRequest

TOKENS = 10_000_000
MIB = 1024 * 1024


@dataclass(frozen=True)
class Option:
    """`kind` is int, float, bool, str or list (of short texts); numbers lie between low and high."""

    kind: type
    low: float = 0
    high: float = 0
    choices: tuple[str, ...] = ()

    def problem(self, value) -> str:
        """What is wrong with `value`; empty if nothing is."""
        if self.choices:
            return (
                ""
                if value in self.choices
                else _("One of %(choices)s is expected.") % {"choices": ", ".join(self.choices)}
            )
        if self.kind is bool:
            return "" if type(value) is bool else _("true or false is expected.")
        if self.kind is str:
            return (
                "" if type(value) is str and 0 < len(value) <= 500 else _("A text of 1 to 500 characters is expected.")
            )
        if self.kind is list:
            return "" if _is_texts(value) else _("A list of at most 16 short texts is expected.")
        return self._number_problem(value)

    def _number_problem(self, value) -> str:
        types = (int,) if self.kind is int else (int, float)
        if type(value) in types and math.isfinite(value) and self.low <= value <= self.high:
            return ""
        word = _("A whole number") if self.kind is int else _("A number")
        return _("%(word)s from %(low)s to %(high)s is expected.") % {"word": word, "low": self.low, "high": self.high}


def _is_texts(value) -> bool:
    return (
        isinstance(value, list) and len(value) <= 16 and all(isinstance(one, str) and len(one) <= 256 for one in value)
    )


SAMPLING = {
    "temperature": Option(float, 0, 2),
    "top_p": Option(float, 0.000001, 1),
    "top_k": Option(int, -1, 100_000),
    "max_tokens": Option(int, 1, TOKENS),
    "presence_penalty": Option(float, -2, 2),
    "frequency_penalty": Option(float, -2, 2),
    "stop": Option(list),
}
COMMON = {
    "model_path": Option(str),
    "model_name": Option(str),
    "n_ctx": Option(int, 16, TOKENS),
    "seed": Option(int, 0, 2**31 - 1),
}
VLLM = {
    "max_model_len": Option(int, 16, TOKENS),
    "dtype": Option(str, choices=("auto", "float32", "float16", "bfloat16", "half", "float")),
    "kv_cache_bytes": Option(int, 16 * MIB, 2**43),
    "max_num_seqs": Option(int, 1, 4096),
    "tensor_parallel_size": Option(int, 1, 64),
    "block_size": Option(int, 1, 256),
    "enable_prefix_caching": Option(bool),
    "enforce_eager": Option(bool),
    "quantization": Option(str, choices=("awq", "gptq", "fp8", "bitsandbytes", "compressed-tensors")),
    "enable_auto_tool_choice": Option(bool),
    "tool_call_parser": Option(
        str, choices=("hermes", "llama3_json", "mistral", "qwen3_coder", "deepseek_v3", "pythonic")
    ),
    "enable_lora": Option(bool),
    "max_lora_rank": Option(int, 1, 512),
    "max_loras": Option(int, 1, 64),
    "stream_chunk_size": Option(int, 1, 1024),
    "allow_auto_tuning": Option(bool),
}
LLAMA_CPP = {
    "n_threads": Option(int, 1, 1024),
    "n_gpu_layers": Option(int, -1, 10_000),
    "n_batch": Option(int, 1, 65_536),
}
ENGINES = {"vllm": COMMON | SAMPLING | VLLM, "llama.cpp": COMMON | SAMPLING | LLAMA_CPP}

DANGEROUS = {
    "trust_remote_code": "It would run code that comes with the weights.",
    "host": "Engines listen where Serai says.",
    "port": "Engines listen where Serai says.",
    "uds": "Engines listen where Serai says.",
    "api_key": "Keys are Serai's; the engine has none.",
    "served_model_name": "It is the model's name.",
    "chat_template": "Templates come with the model; one from outside could run code.",
    "tokenizer": "Only files of the model itself are read.",
    "download_dir": "Paths are not for tenants to name.",
    "hf_token": "Secrets do not belong into a configuration.",
    "middleware": "It would load code into the engine.",
    "worker_cls": "It would load code into the engine.",
    "allowed_local_media_path": "Engines read no local files.",
}

RESOURCES = {
    "gpu_count": Option(int, 0, 1024), "gpu_memory": Option(int, 0, 10_000_000),
    "cpu_cores": Option(float, 0, 4096), "memory": Option(int, 0, 100_000_000),
}  # fmt: skip


def check_config(framework: str, config) -> None:
    """Raises InvalidRequest that names every wrong option."""
    if framework not in ENGINES:
        engines = ", ".join(ENGINES)
        raise InvalidRequest(details={"framework": _("One of %(choices)s is expected.") % {"choices": engines}})
    _check("config", ENGINES[framework], config)


def check_resources(resources) -> None:
    _check("resource_requirements", RESOURCES, resources)


def _check(field: str, table: dict[str, Option], values) -> None:
    if not isinstance(values, dict):
        raise InvalidRequest(details={field: _("An object is expected.")})
    found = {f"{field}.{str(name)[:100]}": _problem(table, name, value) for name, value in values.items()}
    wrong = {name: problem for name, problem in found.items() if problem}
    if wrong:
        raise InvalidRequest(details=wrong)


def _problem(table: dict[str, Option], name: str, value) -> str:
    if name in table:
        return table[name].problem(value)
    if name.replace("-", "_") in DANGEROUS:
        return _("This option is refused. %(why)s") % {"why": DANGEROUS[name.replace("-", "_")]}
    return _("There is no such option.")
