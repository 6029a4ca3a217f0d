"""/v1/responses, OpenAI's newer API for conversations, without the parts that store data between requests."""

from django.utils.translation import gettext_lazy as _

from gateway.api import chat, replies, validators
from gateway.api.chat import MAX_MESSAGES, MAX_PARTS, MAX_TOOLS, data_url, description
from gateway.api.generation import MAX_CONTEXT_TOKENS, SAMPLING, apply_token_limits
from gateway.api.named_events import EventKinds, NamedEventRelay
from gateway.api.operation import Operation, PreparedRequest
from gateway.api.stream_relay import TokenUsage, read_usage
from gateway.api.validators import (
    Fields,
    boolean,
    field_error,
    function_name,
    integer,
    json_object,
    list_of,
    object_of,
    one_of,
    require_field,
    text,
    typed_object,
)
from gateway.json_types import JsonObject
from gateway.routing.snapshot import ModelEntry

MAX_LABELS = 16
FROM_SAMPLING = (
    "temperature", "top_p", "top_k", "min_p", "frequency_penalty", "presence_penalty", "repetition_penalty", "seed",
    "stop", "stop_token_ids", "include_stop_str_in_output", "ignore_eos", "skip_special_tokens", "logit_bias",
    "stream", "structured_outputs",
)  # fmt: skip


def refuse_stored(value: object, param: str) -> object:
    """Conversations are not stored, so a field that refers to one is refused, not ignored."""
    if value:
        raise field_error(param, _("is not offered: send the whole conversation as input."))
    return value


known_part = typed_object(
    {
        "input_text": ({"text": text()}, ("text",)),
        "output_text": ({"text": text()}, ("text",)),
        "refusal": ({"refusal": text()}, ("refusal",)),
        "input_image": (
            {"image_url": data_url, "detail": one_of("auto", "low", "high", "original")}, ("image_url",)
        ),
    }
)  # fmt: skip


def part(value: object, param: str) -> JsonObject:
    found = known_part(value, param)
    return found | {"annotations": []} if found["type"] == "output_text" else found


def content(value: object, param: str) -> object:
    return value if type(value) is str else list_of(part, MAX_PARTS)(value, param)


identified: Fields = {"id": text(256), "status": one_of("in_progress", "completed", "incomplete")}
reasoning_text = object_of({"type": one_of("summary_text", "reasoning_text"), "text": text()}, "type", "text")
message: Fields = {"role": one_of("user", "assistant", "system", "developer"), "content": content}
call: Fields = {"call_id": text(256), "name": text(256, min_length=1), "arguments": text()}
result: Fields = {"call_id": text(256), "output": content}
thoughts = list_of(reasoning_text, MAX_PARTS, min_length=0)
item = typed_object(
    {
        "message": (identified | message, tuple(message)),
        "function_call": (identified | call, tuple(call)),
        "function_call_output": (identified | result, tuple(result)),
        "reasoning": (identified | {"summary": thoughts, "content": thoughts}, ("summary",)),
    },
    default="message",
)


def conversation(value: object, param: str) -> object:
    return value if type(value) is str else list_of(item, MAX_MESSAGES)(value, param)


tool = object_of(
    {
        "type": one_of("function"), "name": function_name, "description": description,
        "parameters": validators.schema, "strict": boolean,
    },
    "type",
    "name",
)  # fmt: skip
named_tool = object_of({"type": one_of("function"), "name": function_name}, "type", "name")
text_format = object_of(
    {
        "type": one_of("text", "json_object", "json_schema"), "name": function_name, "description": description,
        "schema": validators.schema, "strict": boolean,
    },
    "type",
)  # fmt: skip


def labels(value: object, param: str) -> JsonObject:
    found = json_object(value, param)
    if len(found) > MAX_LABELS:
        raise field_error(param, _("must have at most {high} entries."), high=MAX_LABELS)
    return {name: text(512)(entry, f"{param}.{name}") for name, entry in found.items()}


RESPONSE: Fields = {name: SAMPLING[name] for name in FROM_SAMPLING} | {
    "input": conversation,
    "instructions": text(),
    "max_output_tokens": integer(1, MAX_CONTEXT_TOKENS),
    "tools": list_of(tool, MAX_TOOLS, min_length=0),
    "tool_choice": chat.tool_choice_of(named_tool),
    "parallel_tool_calls": boolean,
    "text": object_of({"format": text_format, "verbosity": one_of("low", "medium", "high")}),
    "reasoning": object_of(
        {
            "effort": one_of("none", "minimal", "low", "medium", "high", "xhigh", "max"),
            "summary": one_of("auto", "concise", "detailed"),
        }
    ),
    "top_logprobs": integer(0, 20),
    "include": list_of(one_of("message.output_text.logprobs", "reasoning.encrypted_content"), 8, min_length=0),
    "truncation": one_of("auto", "disabled"),
    "metadata": labels,
    "chat_template_kwargs": chat.template_switches,
    "background": refuse_stored,
    "previous_response_id": refuse_stored,
    "conversation": refuse_stored,
}


def complete_response(prepared: PreparedRequest, model: ModelEntry) -> None:
    payload = prepared.payload
    choice = payload.get("tool_choice", "none")
    chosen = None if type(choice) is str else choice["name"]
    names = {tool["name"] for tool in payload.get("tools", ())}
    validators.check_tool_choice(payload, chosen, names, needed=choice not in ("none", "auto"))
    answer_format = payload.get("text", {}).get("format", {})
    if answer_format.get("type") == "json_schema":
        for name in ("name", "schema"):
            require_field(answer_format, name, "text.format.")
    apply_token_limits(payload, model, "max_output_tokens")
    payload["store"] = False
    prepared.stream = payload.get("stream", False)


# --- replies

NULLABLE = dict.fromkeys(("error", "incomplete_details", "instructions", "metadata", "temperature", "top_p"))
TOP_LEVEL = (
    "id", "object", "created_at", "status", "error", "incomplete_details", "instructions", "metadata", "model",
    "output", "parallel_tool_calls", "temperature", "tool_choice", "tools", "top_p", "max_output_tokens",
    "background", "reasoning", "service_tier", "text", "top_logprobs", "truncation",
)  # fmt: skip
DETAILS = {"input_tokens_details": ("cached_tokens",), "output_tokens_details": ("reasoning_tokens",)}


def read_response(reply: JsonObject, _prepared: PreparedRequest) -> tuple[JsonObject, TokenUsage]:
    replies.require_objects(reply["output"])
    found = NULLABLE | {name: _without_nulls(value) for name, value in replies.select_fields(reply, TOP_LEVEL).items()}
    usage = read_counts(reply["usage"])
    found["usage"] = {
        "input_tokens": usage.prompt,
        "output_tokens": usage.completion,
        "total_tokens": usage.prompt + usage.completion,
        **{name: replies.select_fields(reply["usage"].get(name) or {}, kept) for name, kept in DETAILS.items()},
    }
    return found, usage


def _without_nulls(value: object) -> object:
    """Without nulls at any depth; output texts get the lists that the schema requires, even if empty."""
    if type(value) is list:
        return [_without_nulls(entry) for entry in value]
    if type(value) is not dict:
        return value
    found = {name: _without_nulls(entry) for name, entry in value.items() if entry is not None}
    return {"annotations": [], "logprobs": []} | found if value.get("type") == "output_text" else found


def read_counts(usage: JsonObject) -> TokenUsage:
    counts = {
        "prompt_tokens": usage["input_tokens"],
        "completion_tokens": usage["output_tokens"],
        "prompt_tokens_details": usage.get("input_tokens_details"),
    }
    return read_usage(counts)


EVENT_KINDS = EventKinds(
    read=lambda data: read_counts(data["response"]["usage"]),
    counted=frozenset({b"response.completed", b"response.incomplete"}),
    pieces=frozenset(
        {
            b"response.output_text.delta",
            b"response.reasoning_text.delta",
            b"response.function_call_arguments.delta",
        }
    ),
    last=frozenset({b"response.completed", b"response.incomplete"}),
    failed=frozenset({b"error", b"response.failed"}),
)

RESPONSES = Operation(
    "responses", "/v1/responses", RESPONSE, ("input",), complete_response, read_response,
    tenant_fields=("cache_salt",), relay=lambda _prepared: NamedEventRelay(EVENT_KINDS),
    named_events=True, optional=True,
)  # fmt: skip
