"""/v1/messages and its token count, in the form of Anthropic's API, as vLLM and llama.cpp offer them."""

from django.utils.translation import gettext_lazy as _

from gateway.api import replies, validators
from gateway.api.chat import MAX_MESSAGES, MAX_PARTS, MAX_TOOLS, description
from gateway.api.generation import MAX_CONTEXT_TOKENS, apply_token_limits
from gateway.api.named_events import EventKinds, NamedEventRelay
from gateway.api.operation import Operation, PreparedRequest
from gateway.api.replies import read_uncounted
from gateway.api.stream_relay import TokenUsage, read_usage
from gateway.api.validators import (
    Fields,
    Kinds,
    boolean,
    field_error,
    function_name,
    integer,
    json_object,
    list_of,
    number,
    object_of,
    one_of,
    require_field,
    text,
    typed_object,
)
from gateway.json_types import JsonObject
from gateway.routing.snapshot import ModelEntry

# Images must be part of the request: an engine never fetches a URL that a caller wrote.
source = object_of({"type": one_of("base64"), "media_type": text(100), "data": text()}, "type", "media_type", "data")


PLAIN_BLOCKS: Kinds = {"text": ({"text": text()}, ("text",)), "image": ({"source": source}, ("source",))}
plain_blocks = list_of(typed_object(PLAIN_BLOCKS), MAX_PARTS, min_length=0)


def plain_content(value: object, param: str) -> object:
    return value if type(value) is str else plain_blocks(value, param)


call: Fields = {"id": text(256), "name": text(256, min_length=1), "input": json_object}
result: Fields = {"tool_use_id": text(256), "content": plain_content, "is_error": boolean}
blocks = list_of(
    typed_object(
        {
            **PLAIN_BLOCKS,
            "tool_use": (call, tuple(call)),
            "tool_result": (result, ("tool_use_id",)),
            "thinking": ({"thinking": text(), "signature": text()}, ("thinking",)),
            "redacted_thinking": ({"data": text()}, ("data",)),
        }
    ),
    MAX_PARTS,
)


def content(value: object, param: str) -> object:
    return value if type(value) is str else blocks(value, param)


message = object_of({"role": one_of("user", "assistant", "system"), "content": content}, "role", "content")
tool = object_of(
    {"name": function_name, "description": description, "input_schema": validators.schema, "strict": boolean},
    "name",
    "input_schema",
)
tool_choice = object_of(
    {"type": one_of("auto", "any", "tool", "none"), "name": function_name, "disable_parallel_tool_use": boolean},
    "type",
)
thinking = object_of(
    {"type": one_of("enabled", "disabled", "adaptive"), "budget_tokens": integer(1024, MAX_CONTEXT_TOKENS)}, "type"
)
output_config = object_of(
    {
        "effort": one_of("low", "medium", "high", "xhigh", "max"),
        "format": object_of({"type": one_of("json_schema"), "schema": validators.schema}, "type", "schema"),
    }
)
COUNT: Fields = {
    "messages": list_of(message, MAX_MESSAGES),
    "system": plain_content,
    "tools": list_of(tool, MAX_TOOLS, min_length=0),
    "tool_choice": tool_choice,
    "thinking": thinking,
}
MESSAGE: Fields = COUNT | {
    "max_tokens": integer(1, MAX_CONTEXT_TOKENS),
    "stop_sequences": list_of(text(256, min_length=1), 16, min_length=0),
    "stream": boolean,
    "temperature": number(0, 2),
    "top_p": number(0, 1, exclude_low=True),
    "top_k": integer(-1, 2**20),
    "output_config": output_config,
}


def complete_message(prepared: PreparedRequest, model: ModelEntry) -> None:
    payload = prepared.payload
    require_field(payload, "max_tokens")
    _check_tools(prepared, model)
    apply_token_limits(payload, model, "max_tokens")
    prepared.stream = payload.get("stream", False)


def _check_tools(prepared: PreparedRequest, _model: ModelEntry) -> None:
    choice = prepared.payload.get("tool_choice", {"type": "none"})
    if choice["type"] in ("any", "tool") and not prepared.payload.get("tools"):
        raise field_error("tool_choice", _("needs tools."))
    if choice["type"] == "tool":
        require_field(choice, "name", "tool_choice.")


# --- replies

TOP_LEVEL = ("id", "type", "role", "content", "model", "stop_reason", "stop_sequence", "usage")
USAGE = ("input_tokens", "output_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")


def read_message(reply: JsonObject, _prepared: PreparedRequest) -> tuple[JsonObject, TokenUsage]:
    found: JsonObject = {"stop_reason": None, "stop_sequence": None} | replies.select_fields(reply, TOP_LEVEL)
    found["content"] = [replies.without_nulls(entry) for entry in replies.require_objects(reply["content"])]
    found["usage"] = replies.select_fields(reply["usage"], USAGE)
    return found, read_counts(reply["usage"])


def read_counts(usage: JsonObject) -> TokenUsage:
    """Anthropic's input tokens exclude those that were read from the cache or written to it."""
    cached, written = usage.get("cache_read_input_tokens") or 0, usage.get("cache_creation_input_tokens") or 0
    counts = {
        "prompt_tokens": usage.get("input_tokens", 0) + cached + written,
        "completion_tokens": usage.get("output_tokens", 0),
        "prompt_tokens_details": {"cached_tokens": cached},
    }
    return read_usage(counts)


def _read_event(data: JsonObject) -> TokenUsage:
    return read_counts(data["message"]["usage"] if data["type"] == "message_start" else data["usage"])


EVENT_KINDS = EventKinds(
    read=_read_event,
    counted=frozenset({b"message_start", b"message_delta"}),
    pieces=frozenset({b"content_block_delta"}),
    last=frozenset({b"message_stop"}),
)

ANTHROPIC_MESSAGE = Operation(
    "messages", "/v1/messages", MESSAGE, ("messages",), complete_message, read_message,
    tenant_fields=("cache_salt",), relay=lambda _prepared: NamedEventRelay(EVENT_KINDS),
    named_events=True, optional=True,
)  # fmt: skip
TOKEN_COUNT = Operation(
    "messages.count_tokens", "/v1/messages/count_tokens", COUNT, ("messages",), _check_tools, read_uncounted,
    tenant_fields=(), optional=True,
)  # fmt: skip
