"""/v1/responses, OpenAI's newer API for conversations, without the parts that store data between requests."""

from django.utils.translation import gettext_lazy as _

from gateway.api import chat, replies, validators
from gateway.api.chat import MESSAGES, PARTS, TOOLS, data_url, description
from gateway.api.generation import LONGEST_CONTEXT, SAMPLING, limit_tokens
from gateway.api.named_events import Dialect, NamedEventRelay
from gateway.api.operation import Operation, Prepared
from gateway.api.stream_relay import Usage, read_usage
from gateway.api.validators import (
    Fields,
    boolean,
    function_name,
    integer,
    listing,
    mapping,
    need,
    one_of,
    record,
    text,
    variant,
    wrong,
)
from gateway.routing.snapshot import ModelEntry

LABELS = 16
FROM_SAMPLING = (
    "temperature", "top_p", "top_k", "min_p", "frequency_penalty", "presence_penalty", "repetition_penalty", "seed",
    "stop", "stop_token_ids", "include_stop_str_in_output", "ignore_eos", "skip_special_tokens", "logit_bias",
    "stream", "structured_outputs",
)  # fmt: skip


def kept_by_nobody(value, param):
    """Conversations are not stored, so a field that refers to one is refused, not ignored."""
    if value:
        raise wrong(param, _("is not offered: send the whole conversation as input."))
    return value


known_part = variant(
    {
        "input_text": ({"text": text()}, ("text",)),
        "output_text": ({"text": text()}, ("text",)),
        "refusal": ({"refusal": text()}, ("refusal",)),
        "input_image": (
            {"image_url": data_url, "detail": one_of("auto", "low", "high", "original")}, ("image_url",)
        ),
    }
)  # fmt: skip


def part(value, param):
    found = known_part(value, param)
    return found | {"annotations": []} if found["type"] == "output_text" else found


def content(value, param):
    return value if type(value) is str else listing(part, PARTS)(value, param)


identified: Fields = {"id": text(256), "status": one_of("in_progress", "completed", "incomplete")}
reasoning_text = record({"type": one_of("summary_text", "reasoning_text"), "text": text()}, "type", "text")
message: Fields = {"role": one_of("user", "assistant", "system", "developer"), "content": content}
call: Fields = {"call_id": text(256), "name": text(256, min_length=1), "arguments": text()}
result: Fields = {"call_id": text(256), "output": content}
thoughts = listing(reasoning_text, PARTS, min_length=0)
item = variant(
    {
        "message": (identified | message, tuple(message)),
        "function_call": (identified | call, tuple(call)),
        "function_call_output": (identified | result, tuple(result)),
        "reasoning": (identified | {"summary": thoughts, "content": thoughts}, ("summary",)),
    },
    default="message",
)


def conversation(value, param):
    return value if type(value) is str else listing(item, MESSAGES)(value, param)


tool = record(
    {
        "type": one_of("function"), "name": function_name, "description": description,
        "parameters": validators.schema, "strict": boolean,
    },
    "type",
    "name",
)  # fmt: skip
named_tool = record({"type": one_of("function"), "name": function_name}, "type", "name")


def tool_choice(value, param):
    if type(value) is str:
        return one_of("none", "auto", "required")(value, param)
    return named_tool(value, param)


text_format = record(
    {
        "type": one_of("text", "json_object", "json_schema"), "name": function_name, "description": description,
        "schema": validators.schema, "strict": boolean,
    },
    "type",
)  # fmt: skip


def labels(value, param):
    if len(mapping(value, param)) > LABELS:
        raise wrong(param, _("must have at most {high} entries."), high=LABELS)
    return {name: text(512)(entry, f"{param}.{name}") for name, entry in value.items()}


RESPONSE: Fields = {name: SAMPLING[name] for name in FROM_SAMPLING} | {
    "input": conversation,
    "instructions": text(),
    "max_output_tokens": integer(1, LONGEST_CONTEXT),
    "tools": listing(tool, TOOLS, min_length=0),
    "tool_choice": tool_choice,
    "parallel_tool_calls": boolean,
    "text": record({"format": text_format, "verbosity": one_of("low", "medium", "high")}),
    "reasoning": record(
        {
            "effort": one_of("none", "minimal", "low", "medium", "high", "xhigh", "max"),
            "summary": one_of("auto", "concise", "detailed"),
        }
    ),
    "top_logprobs": integer(0, 20),
    "include": listing(one_of("message.output_text.logprobs", "reasoning.encrypted_content"), 8, min_length=0),
    "truncation": one_of("auto", "disabled"),
    "metadata": labels,
    "chat_template_kwargs": chat.template_switches,
    "background": kept_by_nobody,
    "previous_response_id": kept_by_nobody,
    "conversation": kept_by_nobody,
}


def complete_response(prepared: Prepared, model: ModelEntry) -> None:
    payload = prepared.payload
    if payload.get("tool_choice") not in (None, "none", "auto") and not payload.get("tools"):
        raise wrong("tool_choice", _("needs tools."))
    answer_format = payload.get("text", {}).get("format", {})
    if answer_format.get("type") == "json_schema":
        for name in ("name", "schema"):
            need(answer_format, name, "text.format.")
    limit_tokens(payload, model, "max_output_tokens")
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


def read_response(reply: dict, _prepared: Prepared) -> tuple[dict, Usage]:
    replies.objects(reply["output"])
    found = NULLABLE | {name: _without_nulls(value) for name, value in replies.only(reply, TOP_LEVEL).items()}
    usage = read_counts(reply["usage"])
    found["usage"] = {
        "input_tokens": usage.prompt,
        "output_tokens": usage.completion,
        "total_tokens": usage.prompt + usage.completion,
        **{name: replies.only(reply["usage"].get(name) or {}, kept) for name, kept in DETAILS.items()},
    }
    return found, usage


def _without_nulls(value):
    """Without nulls at any depth; output texts get the lists that the schema requires, even if empty."""
    if type(value) is list:
        return [_without_nulls(entry) for entry in value]
    if type(value) is not dict:
        return value
    found = {name: _without_nulls(entry) for name, entry in value.items() if entry is not None}
    return {"annotations": [], "logprobs": []} | found if value.get("type") == "output_text" else found


def read_counts(usage: dict) -> Usage:
    counts = {
        "prompt_tokens": usage["input_tokens"],
        "completion_tokens": usage["output_tokens"],
        "prompt_tokens_details": usage.get("input_tokens_details"),
    }
    return read_usage(counts)


EVENTS = Dialect(
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
    ours=("cache_salt",), relay=lambda _prepared: NamedEventRelay(EVENTS), named_events=True, optional=True,
)  # fmt: skip
