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
    if payload.get("thinking", {}).get("budget_tokens", 0) >= payload["max_tokens"]:
        raise field_error("thinking.budget_tokens", _("must be less than max_tokens."))
    _check_conversation(prepared, model)
    apply_token_limits(payload, model, "max_tokens")
    prepared.stream = payload.get("stream", False)


def _check_conversation(prepared: PreparedRequest, _model: ModelEntry) -> None:
    _check_tools(prepared.payload)
    _leave_out_budget(prepared)


def _leave_out_budget(prepared: PreparedRequest) -> None:
    """Engines refuse a thinking budget without a reasoning parser, and no option of a model sets one."""
    if prepared.payload.get("thinking", {}).get("type") == "enabled":
        del prepared.payload["thinking"]
        prepared.ignored.append("thinking")


def _check_tools(payload: JsonObject) -> None:
    choice = payload.get("tool_choice", {"type": "none"})
    if choice["type"] == "tool":
        require_field(choice, "name", "tool_choice.")
    chosen = choice["name"] if choice["type"] == "tool" else None
    names = {tool["name"] for tool in payload.get("tools", ())}
    validators.check_tool_choice(payload, chosen, names, needed=choice["type"] in ("any", "tool"))


# --- replies

TOP_LEVEL = ("id", "type", "role", "content", "model", "stop_reason", "stop_sequence", "usage")
USAGE = ("input_tokens", "output_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
# What Anthropic's schema has beside that. It applies to no engine, but clients that check the schema expect it.
END_DEFAULTS: JsonObject = dict.fromkeys(("stop_reason", "stop_sequence", "stop_details", "container"))
MESSAGE_DEFAULTS: JsonObject = END_DEFAULTS | {"diagnostics": None}
DELTA_USAGE_DEFAULTS: JsonObject = {
    "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0, "server_tool_use": None,
    "output_tokens_details": None,
}  # fmt: skip
USAGE_DEFAULTS: JsonObject = DELTA_USAGE_DEFAULTS | dict.fromkeys(
    ("cache_creation", "inference_geo", "service_tier", "speed")
)
BLOCK_DEFAULTS: dict[str, JsonObject] = {
    "text": {"citations": None}, "tool_use": {"caller": {"type": "direct"}}, "thinking": {"signature": ""},
}  # fmt: skip


def read_message(reply: JsonObject, _prepared: PreparedRequest) -> tuple[JsonObject, TokenUsage]:
    return _message_fields(reply), read_counts(reply["usage"])


def _message_fields(message: JsonObject) -> JsonObject:
    found = MESSAGE_DEFAULTS | replies.select_fields(message, TOP_LEVEL)
    found["content"] = [_read_block(entry) for entry in replies.require_objects(message["content"])]
    found["usage"] = USAGE_DEFAULTS | replies.select_fields(message["usage"], USAGE)
    return found


def _read_block(block: JsonObject) -> JsonObject:
    return BLOCK_DEFAULTS.get(block["type"], {}) | replies.without_nulls(block)


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


def _convert_event(data: JsonObject) -> JsonObject:
    """The first event of a stream has a whole message, the last but one the end's reasons and the counts."""
    if data["type"] == "message_start":
        return data | {"message": _message_fields(data["message"])}
    return data | {
        "delta": END_DEFAULTS | data["delta"],
        "usage": DELTA_USAGE_DEFAULTS | replies.select_fields(data["usage"], USAGE),
    }


EVENT_KINDS = EventKinds(
    read=_read_event,
    counted=frozenset({b"message_start", b"message_delta"}),
    pieces=frozenset({b"content_block_delta"}),
    last=frozenset({b"message_stop"}),
    convert=_convert_event,
)

ANTHROPIC_MESSAGE = Operation(
    "messages", "/v1/messages", MESSAGE, ("messages",), complete_message, read_message,
    tenant_fields=("cache_salt",), relay=lambda _prepared: NamedEventRelay(EVENT_KINDS),
    named_events=True, optional=True,
)  # fmt: skip
TOKEN_COUNT = Operation(
    "messages.count_tokens", "/v1/messages/count_tokens", COUNT, ("messages",), _check_conversation, read_uncounted,
    tenant_fields=(), optional=True,
)  # fmt: skip
