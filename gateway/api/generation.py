"""Turns a request's bytes into the engine's request: parsed once, checked, never the client's own bytes."""

import hmac
from functools import lru_cache

import orjson
from django.utils.text import format_lazy
from django.utils.translation import gettext_lazy as _

from core.errors import InvalidRequest
from gateway.api import chat, replies, validators
from gateway.api.operation import Operation, PreparedRequest
from gateway.api.validators import (
    Check,
    Fields,
    boolean,
    check_fields,
    field_error,
    integer,
    json_object,
    list_of,
    number,
    object_of,
    text,
)
from gateway.errors import ContextTooLong
from gateway.json_types import JsonObject
from gateway.routing.snapshot import ModelEntry
from models_app.models import Mode

MAX_CHOICES, MAX_PROMPTS, MAX_CONTEXT_TOKENS = 8, 32, 2**20
# OpenAI's fields that no engine here has and that change an answer → their values that ask for nothing.
WITHOUT_EFFECT: dict[str, tuple[object, ...]] = {
    "functions": ([],), "function_call": ("none",), "modalities": ([], ["text"]), "audio": (),
    "web_search_options": (), "suffix": ("",),
}  # fmt: skip
ROUTE_FOR = {Mode.CHAT: "/v1/chat/completions", Mode.EMBEDDING: "/v1/embeddings", Mode.RERANKER: "/v1/rerank"}


def prompt(value: object, param: str) -> object:
    """A text, token ids, or a list of either."""
    if type(value) is str:
        return value
    if type(value) is not list or not value:
        raise field_error(param, _("must be a text or a list that is not empty."))
    if type(value[0]) is int:
        return validators.token_ids(value, param)
    entry: Check[object] = text() if type(value[0]) is str else validators.token_ids
    return list_of(entry, MAX_PROMPTS)(value, param)


SAMPLING: Fields = {
    "n": integer(1, MAX_CHOICES),
    "max_tokens": integer(1, MAX_CONTEXT_TOKENS),
    "min_tokens": integer(0, MAX_CONTEXT_TOKENS),
    "temperature": number(0, 2),
    "top_p": number(0, 1, exclude_low=True),
    "top_k": integer(-1, 2**20),
    "min_p": number(0, 1),
    "frequency_penalty": number(-2, 2),
    "presence_penalty": number(-2, 2),
    "repetition_penalty": number(0, 10, exclude_low=True),
    "seed": integer(-validators.INT64, validators.INT64 - 1),
    "stop": validators.stop,
    "stop_token_ids": list_of(integer(0, validators.TOKEN_ID_LIMIT), 64, min_length=0),
    "include_stop_str_in_output": boolean,
    "ignore_eos": boolean,
    "skip_special_tokens": boolean,
    "logit_bias": validators.logit_bias,
    "stream": boolean,
    "stream_options": object_of({"include_usage": boolean, "continuous_usage_stats": boolean}),
    "response_format": chat.response_format,
    "structured_outputs": chat.structured_outputs,
}
CHAT: Fields = SAMPLING | {
    "messages": chat.messages,
    "max_completion_tokens": integer(1, MAX_CONTEXT_TOKENS),
    "logprobs": boolean,
    "top_logprobs": integer(0, 20),
    "tools": chat.tools,
    "tool_choice": chat.tool_choice,
    "parallel_tool_calls": boolean,
    "reasoning_effort": validators.one_of("none", "minimal", "low", "medium", "high", "xhigh", "max"),
    "chat_template_kwargs": chat.template_switches,
}


def no_suffix(value: object, param: str) -> None:
    if value != "":
        raise field_error(param, _("is not offered: engines only continue a text, they fill no gap."))


COMPLETION: Fields = SAMPLING | {
    "prompt": prompt, "logprobs": integer(0, 20), "echo": boolean, "suffix": no_suffix,
}  # fmt: skip
TOKENIZE: Fields = {
    "prompt": text(),
    "messages": chat.messages,
    "tools": chat.tools,
    "add_special_tokens": boolean,
    "add_generation_prompt": boolean,
    "continue_final_message": boolean,
    "return_token_strs": boolean,
}
DETOKENIZE: Fields = {"tokens": validators.token_ids}


def parse_body(raw: bytes) -> JsonObject:
    """The body as an object; of duplicate keys the last one counts, as in the engine."""
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError:
        raise InvalidRequest(_("The body is not valid JSON."), status=400) from None
    return json_object(body, "body")


def model_ref(body: JsonObject) -> str | None:
    ref = body.get("model")
    return None if ref is None else text(300, min_length=1)(ref, "model")


def prepare_request(
    operation: Operation, body: JsonObject, model: ModelEntry, tenant_id: str, salt_key: bytes
) -> PreparedRequest:
    """Check `body` against the operation and the model's limits. Raises InvalidRequest with `param`."""
    _check_mode(operation, model)
    payload = check_fields(operation.fields, body)
    if not any(name in payload for name in operation.required):
        raise field_error(operation.required[0], _("this field is required."))
    prepared = PreparedRequest(payload, ignored=_ignored_names(operation.fields, body, payload))
    operation.complete(prepared, model)
    tenant_fields = {"cache_salt": cache_salt(tenant_id, salt_key), "user": tenant_id}
    payload |= {name: tenant_fields[name] for name in operation.tenant_fields}
    return prepared


def _ignored_names(fields: Fields, body: JsonObject, found: JsonObject) -> list[str]:
    """The fields of `body` that are not in `found`. Raises InvalidRequest for those that change the answer."""
    if len(found) + ("model" in body) == len(body):
        return []
    left_out = {name: value for name, value in body.items() if name not in fields and value is not None}
    left_out.pop("model", None)
    for name in left_out.keys() & WITHOUT_EFFECT.keys():
        if left_out.pop(name) not in WITHOUT_EFFECT[name]:
            raise field_error(name, _("is not offered here, and without it the answer would be another one."))
    return list(left_out)


def _check_mode(operation: Operation, model: ModelEntry) -> None:
    """A model of another mode must not be started for a request that it cannot answer."""
    if model.mode not in operation.modes:
        text = _("this model has the mode {mode}: send it requests for {route}.")
        raise field_error("model", text, mode=model.mode, route=ROUTE_FOR[Mode(model.mode)])


def _complete_generation(prepared: PreparedRequest, model: ModelEntry) -> None:
    payload = prepared.payload
    payload.pop("suffix", None)
    _check_combinations(payload)
    apply_token_limits(payload, model, "max_completion_tokens", "max_tokens")
    prepared.stream, prepared.choices = payload.get("stream", False), payload.get("n", 1)
    _count_prompts(prepared)
    _request_usage(prepared)


def _complete_nothing(_prepared: PreparedRequest, _model: ModelEntry) -> None:
    """These requests are forwarded as they are."""


def _check_combinations(payload: JsonObject) -> None:
    if payload.get("top_logprobs") and not payload.get("logprobs"):
        raise field_error("top_logprobs", _("needs logprobs to be true."))
    if payload.get("min_tokens", 0) > payload.get("max_tokens", MAX_CONTEXT_TOKENS):
        raise field_error("min_tokens", _("must not be greater than max_tokens."))
    chat.check_tools(payload)
    if "response_format" in payload and "structured_outputs" in payload:
        raise field_error("structured_outputs", _("cannot go together with response_format."))


def apply_token_limits(payload: JsonObject, model: ModelEntry, *lengths: str) -> None:
    """Check the request against the context, and fill in the model's own sampling defaults.

    `lengths` are the fields that limit the tokens of an answer; a default goes into the last of them.
    """
    for name in (*lengths, "min_tokens"):
        if model.context and payload.get(name, 0) > model.context:
            raise _answer_too_long(name, payload[name], model.context)
    for name, value in model.sampling.items():
        if name != "max_tokens":
            payload.setdefault(name, value)
        elif not any(length in payload for length in lengths):
            payload[lengths[-1]] = value


def _answer_too_long(param: str, given: int, limit: int) -> ContextTooLong:
    text = _(
        "This model's maximum context length is {limit} tokens. However, you requested {given} tokens for the answer "
        "alone ({param})."
    )
    shown = format_lazy(text, limit=limit, given=given, param=param)
    return ContextTooLong(shown, param=param, details={"context": limit})


def _count_prompts(prepared: PreparedRequest) -> None:
    prompts = prepared.payload.get("prompt")
    if type(prompts) is list and type(prompts[0]) is not int:
        prepared.prompts = len(prompts)


def _request_usage(prepared: PreparedRequest) -> None:
    """Make the engine count in every chunk, so that a broken stream is still metered to the token."""
    options = prepared.payload.pop("stream_options", None) or {}
    if not prepared.stream:
        return
    prepared.show_usage = options.get("include_usage", False)
    prepared.show_continuous = prepared.show_usage and options.get("continuous_usage_stats", False)
    prepared.payload["stream_options"] = {"include_usage": True, "continuous_usage_stats": True}


@lru_cache(maxsize=4096)
def cache_salt(tenant_id: str, key: bytes) -> str:
    """Tenants share no cached prefixes, so that none can detect another's prompts by timing."""
    return hmac.digest(key, tenant_id.encode(), "sha256").hex()


CHAT_COMPLETION = Operation(
    "chat.completions", "/v1/chat/completions", CHAT, ("messages",), _complete_generation, replies.read_generation
)
TEXT_COMPLETION = Operation(
    "completions", "/v1/completions", COMPLETION, ("prompt",), _complete_generation, replies.read_generation
)
TOKENIZATION = Operation(
    "tokenize", "/tokenize", TOKENIZE, ("prompt", "messages"), _complete_nothing, replies.read_uncounted,
    modes=tuple(Mode), tenant_fields=(), optional=True,
)  # fmt: skip
DETOKENIZATION = Operation(
    "detokenize", "/detokenize", DETOKENIZE, ("tokens",), _complete_nothing, replies.read_uncounted,
    modes=tuple(Mode), tenant_fields=(), optional=True,
)  # fmt: skip
