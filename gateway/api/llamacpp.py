"""Where llama.cpp's API differs from vLLM's. A field that it does not have is refused by name.

With `timings_per_token` it counts in every chunk of a stream, so a stream that breaks off is metered to the token
here, too. Of several prompts or choices it counts only one, so a request may have only one.
"""

import re
from collections.abc import Callable
from dataclasses import replace

import orjson
from django.utils.translation import gettext_lazy as _

from core.errors import InvalidRequest
from gateway.api import generation, pooling
from gateway.api.operation import Operation, PreparedRequest
from gateway.api.stream_relay import Relay, StreamRelay, TokenUsage, parse_object, read_usage
from gateway.api.validators import field_error
from gateway.json_types import JsonObject
from gateway.routing.snapshot import ModelEntry
from models_app.models import Mode

TIMINGS = re.compile(rb',"timings":(\{[^{}]*\})\}$')
RENAMED_FIELDS = {"repetition_penalty": "repeat_penalty"}
# Field of a request → the values that the engine supports; None: the field must be absent.
SUPPORTED_VALUES: dict[str, tuple[object, ...] | None] = {
    "n": (1,), "min_tokens": (0,), "stop_token_ids": ([],), "include_stop_str_in_output": (False,),
    "skip_special_tokens": (True,), "echo": (False,), "structured_outputs": None, "dimensions": None,
    "truncate_prompt_tokens": None, "max_tokens_per_doc": None,
}  # fmt: skip
TEXT_PARTS = {"text"}


class TimedRelay(StreamRelay):
    """A relay of chunks with the engine's timings, which hold its token counts; they are cut out."""

    def __init__(self, *, show_usage: bool) -> None:
        super().__init__(show_usage=show_usage)
        self._timings = b""

    def _relay_event(self, event: bytes, out: list[bytes]) -> None:
        if found := TIMINGS.search(event):
            self._timings = found[1]
            event = event[: found.start()] + b"}"
        super()._relay_event(event, out)
        if self._last_usage:  # a text completion is counted in its last chunk, requested or not
            self._final_usage = self._last_usage.pop(0)
            if self._show_usage:
                out.append(_usage_event(event))

    def usage(self) -> TokenUsage:
        return super().usage() if self._final_usage is not None else read_timings(self._timings)


def _usage_event(event: bytes) -> bytes:
    """The chunk with nothing but usage that OpenAI's clients expect."""
    return b"data: " + orjson.dumps((parse_object(event[6:]) or {}) | {"choices": []})


def read_timings(raw: bytes) -> TokenUsage:
    """Token counts from the engine's timings, whose `prompt_n` leaves out cached tokens."""
    timings = parse_object(raw) or {}
    cached, computed = timings.get("cache_n"), timings.get("prompt_n")
    if type(cached) is not int or type(computed) is not int:
        return TokenUsage()
    counts = {"prompt_tokens": cached + computed, "completion_tokens": timings.get("predicted_n")}
    return read_usage(counts | {"prompt_tokens_details": {"cached_tokens": cached}})


def _timed_relay(prepared: PreparedRequest) -> Relay:
    return TimedRelay(show_usage=prepared.show_usage)


# --- requests

Complete = Callable[[PreparedRequest, ModelEntry], None]


def _adapt_generation(complete: Complete) -> Complete:
    def complete_adapted(prepared: PreparedRequest, model: ModelEntry) -> None:
        complete(prepared, model)
        payload = prepared.payload
        _refuse_unknown(payload)
        _refuse_media(payload)
        for name, engine_name in RENAMED_FIELDS.items():
            if name in payload:
                payload[engine_name] = payload.pop(name)
        payload["timings_per_token"] = prepared.stream
        payload["cache_prompt"] = not model.public  # it has no salt that would keep tenants' prefixes apart

    return complete_adapted


def _complete_text(prepared: PreparedRequest, model: ModelEntry) -> None:
    _adapt_generation(generation.TEXT_COMPLETION.complete)(prepared, model)
    if prepared.prompts > 1:
        raise field_error("prompt", _("the engine of this model takes one prompt at a time."))
    if prepared.payload.get("logprobs"):
        raise _not_offered("logprobs")


def _adapt_pooling(complete: Complete) -> Complete:
    def complete_adapted(prepared: PreparedRequest, model: ModelEntry) -> None:
        _refuse_unknown(prepared.payload)
        complete(prepared, model)

    return complete_adapted


def _refuse_unknown(payload: JsonObject) -> None:
    for field in payload.keys() & SUPPORTED_VALUES.keys():
        supported = SUPPORTED_VALUES[field]
        if supported is None or payload[field] not in supported:
            raise _not_offered(field)


def _refuse_media(payload: JsonObject) -> None:
    """No multimodal projector is loaded with a model."""
    for message in payload.get("messages", ()):
        content = message.get("content")
        if type(content) is list and {part["type"] for part in content} - TEXT_PARTS:
            raise field_error("messages", _("This model does not take such content."))


def _not_offered(field: str) -> InvalidRequest:
    return field_error(field, _("the engine of this model does not offer this."))


def _complete_tokenization(prepared: PreparedRequest, _model: ModelEntry) -> None:
    payload = prepared.payload
    if "prompt" not in payload:
        raise _not_offered("messages")
    special = payload.get("add_special_tokens", True)
    prepared.payload = {"content": payload["prompt"], "add_special": special}


def _read_tokens(reply: JsonObject, _prepared: PreparedRequest) -> tuple[JsonObject, TokenUsage]:
    return {"count": len(reply["tokens"]), "tokens": reply["tokens"]}, TokenUsage()


def _read_text(reply: JsonObject, _prepared: PreparedRequest) -> tuple[JsonObject, TokenUsage]:
    return {"prompt": reply["content"]}, TokenUsage()


OPERATIONS: dict[str, Operation] = {
    operation.name: operation
    for operation in (
        replace(
            generation.CHAT_COMPLETION,
            relay=_timed_relay,
            tenant_fields=(),
            complete=_adapt_generation(generation.CHAT_COMPLETION.complete),
        ),
        replace(generation.TEXT_COMPLETION, relay=_timed_relay, tenant_fields=(), complete=_complete_text),
        replace(pooling.EMBEDDING, tenant_fields=(), complete=_adapt_pooling(pooling.EMBEDDING.complete)),
        replace(
            pooling.RERANKING,
            tenant_fields=(),
            complete=_adapt_pooling(pooling.RERANKING.complete),
            modes=(Mode.RERANKER,),
        ),
        replace(generation.TOKENIZATION, complete=_complete_tokenization, read=_read_tokens),
        replace(generation.DETOKENIZATION, read=_read_text),
    )
}
