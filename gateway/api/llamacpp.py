"""What llama.cpp's server says in other words than vLLM, and what it has no words for: that is refused by name.

It counts in every chunk of a stream when asked for `timings_per_token`, so a stream that breaks off is metered to the
token here, too. Of several prompts or choices it counts only one, so it is asked for one at a time.
"""

import re
from collections.abc import Callable
from dataclasses import replace

import orjson
from django.utils.translation import gettext_lazy as _

from gateway.api import generation, pooling
from gateway.api.operation import Operation, Prepared
from gateway.api.stream_relay import Relay, StreamRelay, Usage, parse, read_usage
from gateway.api.validators import wrong
from gateway.routing.snapshot import ModelEntry
from models_app.models import Mode

TIMINGS = re.compile(rb',"timings":(\{[^{}]*\})\}$')
RENAMED = {"repetition_penalty": "repeat_penalty"}
# Field of a request → the values that the engine can keep to; None: nothing but the field's absence.
UNKNOWN: dict[str, tuple | None] = {
    "n": (1,), "min_tokens": (0,), "stop_token_ids": ([],), "include_stop_str_in_output": (False,),
    "skip_special_tokens": (True,), "echo": (False,), "structured_outputs": None, "dimensions": None,
    "truncate_prompt_tokens": None, "max_tokens_per_doc": None,
}  # fmt: skip
TEXT_ONLY = {"text"}


class TimedRelay(StreamRelay):
    """A relay of chunks that carry the engine's timings, in which it counts; they go to nobody else."""

    def __init__(self, *, show_usage: bool):
        super().__init__(show_usage=show_usage)
        self._timings = b""

    def _one(self, event: bytes, out: list[bytes]) -> None:
        if found := TIMINGS.search(event):
            self._timings = found[1]
            event = event[: found.start()] + b"}"
        super()._one(event, out)
        if self._last:  # a text completion is counted in its last chunk, whether or not that was asked for
            self._final = self._last.pop(0)
            if self._show_usage:
                out.append(_usage_event(event))

    def usage(self) -> Usage:
        return super().usage() if self._final is not None else read_timings(self._timings)


def _usage_event(event: bytes) -> bytes:
    """The chunk of usage alone that OpenAI's clients wait for."""
    return b"data: " + orjson.dumps((parse(event[6:]) or {}) | {"choices": []})


def read_timings(raw: bytes) -> Usage:
    """The engine's timings, of which `prompt_n` leaves out what the cache answered."""
    timings = parse(raw) or {}
    cached, computed = timings.get("cache_n"), timings.get("prompt_n")
    if type(cached) is not int or type(computed) is not int:
        return Usage()
    counts = {"prompt_tokens": cached + computed, "completion_tokens": timings.get("predicted_n")}
    return read_usage(counts | {"prompt_tokens_details": {"cached_tokens": cached}})


def _timed(prepared: Prepared) -> Relay:
    return TimedRelay(show_usage=prepared.show_usage)


# --- requests

Complete = Callable[[Prepared, ModelEntry], None]


def _generating(complete: Complete) -> Complete:
    def complete_here(prepared: Prepared, model: ModelEntry) -> None:
        complete(prepared, model)
        payload = prepared.payload
        _refuse_unknown(payload)
        _refuse_media(payload)
        for theirs, ours in RENAMED.items():
            if theirs in payload:
                payload[ours] = payload.pop(theirs)
        payload["timings_per_token"] = prepared.stream
        payload["cache_prompt"] = not model.public  # it knows no salt that would keep tenants' prefixes apart

    return complete_here


def _completing_text(prepared: Prepared, model: ModelEntry) -> None:
    _generating(generation.TEXT_COMPLETION.complete)(prepared, model)
    if prepared.prompts > 1:
        raise wrong("prompt", _("the engine of this model takes one prompt at a time."))
    if prepared.payload.get("logprobs"):
        raise _not_offered("logprobs")


def _reading(complete: Complete) -> Complete:
    def complete_here(prepared: Prepared, model: ModelEntry) -> None:
        _refuse_unknown(prepared.payload)
        complete(prepared, model)

    return complete_here


def _refuse_unknown(payload: dict) -> None:
    for field in payload.keys() & UNKNOWN.keys():
        if UNKNOWN[field] is None or payload[field] not in UNKNOWN[field]:
            raise _not_offered(field)


def _refuse_media(payload: dict) -> None:
    """No projector is loaded beside a model."""
    for message in payload.get("messages", ()):
        content = message.get("content")
        if type(content) is list and {part["type"] for part in content} - TEXT_ONLY:
            raise wrong("messages", _("This model does not take such content."))


def _not_offered(field: str):
    return wrong(field, _("the engine of this model does not offer this."))


def _tokenizing(prepared: Prepared, _model: ModelEntry) -> None:
    payload = prepared.payload
    if "prompt" not in payload:
        raise _not_offered("messages")
    special = payload.get("add_special_tokens", True)
    prepared.payload = {"content": payload["prompt"], "add_special": special}


def _read_tokens(reply: dict, _prepared: Prepared) -> tuple[dict, Usage]:
    return {"count": len(reply["tokens"]), "tokens": reply["tokens"]}, Usage()


def _read_text(reply: dict, _prepared: Prepared) -> tuple[dict, Usage]:
    return {"prompt": reply["content"]}, Usage()


OPERATIONS: dict[str, Operation] = {
    operation.name: operation
    for operation in (
        replace(
            generation.CHAT_COMPLETION, relay=_timed, ours=(), complete=_generating(generation.CHAT_COMPLETION.complete)
        ),
        replace(generation.TEXT_COMPLETION, relay=_timed, ours=(), complete=_completing_text),
        replace(pooling.EMBEDDING, ours=(), complete=_reading(pooling.EMBEDDING.complete)),
        replace(pooling.RERANKING, ours=(), complete=_reading(pooling.RERANKING.complete), modes=(Mode.RERANKER,)),
        replace(generation.TOKENIZATION, complete=_tokenizing, read=_read_tokens),
        replace(generation.DETOKENIZATION, read=_read_text),
    )
}
