"""Converts an engine's whole replies into the form of OpenAI's schema, and its refusals into our errors.

Engines fill optional fields with null and add fields of their own; clients that check the schema fail on
both. No text of an engine's error is passed on: it may contain paths, addresses and versions.
"""

import re
import uuid
from collections.abc import Collection

import orjson
from django.utils.text import format_lazy
from django.utils.translation import gettext_lazy as _

from core import errors
from gateway.api.operation import Operation, PreparedRequest
from gateway.api.stream_relay import TokenUsage, read_usage
from gateway.errors import ContextTooLong
from gateway.json_types import JsonObject
from gateway.routing.snapshot import ModelEntry
from models_app.models import Mode

TOP_LEVEL = ("id", "object", "created", "model", "choices", "usage", "system_fingerprint", "service_tier")
CHOICE = ("index", "message", "text", "logprobs", "finish_reason", "stop_reason")
MESSAGE = ("role", "content", "refusal", "tool_calls", "annotations", "audio", "function_call", "reasoning",
           "reasoning_content")  # fmt: skip


def convert_reply(
    operation: Operation, raw: bytes, prepared: PreparedRequest, *, generated_id: bool = False
) -> tuple[bytes, TokenUsage]:
    """The reply for the client and its token counts. Raises EngineUnavailable for a reply of another form.

    `generated_id` gives it an id `gen-…`, as in the REST API's `generate`.
    """
    try:
        reply, usage = operation.read(_parse_object(raw), prepared)
        reply = operation.present(reply, prepared)
    except (LookupError, TypeError, ValueError):
        raise unreadable_reply() from None
    if generated_id:
        reply["id"] = f"gen-{uuid.uuid4()}"
    return orjson.dumps(reply), usage


def _parse_object(raw: bytes) -> JsonObject:
    reply = orjson.loads(raw)
    if type(reply) is not dict:
        raise TypeError("a reply is an object")
    return reply


def read_generation(reply: JsonObject, _prepared: PreparedRequest) -> tuple[JsonObject, TokenUsage]:
    """A chat or text completion."""
    choices, usage = require_objects(reply["choices"]), read_usage(reply.get("usage"))
    found = select_fields(reply, TOP_LEVEL)
    found["choices"] = [_clean_choice(choice) for choice in choices]
    found["usage"] = _usage_fields(reply.get("usage"), usage)
    return found, usage


def read_uncounted(reply: JsonObject, _prepared: PreparedRequest) -> tuple[JsonObject, TokenUsage]:
    """A reply that uses no tokens."""
    return without_nulls(reply), TokenUsage()


def unreadable_reply() -> errors.EngineUnavailable:
    return errors.EngineUnavailable(_("The engine's answer could not be read. Its log may tell why."))


def require_objects(value: object) -> list[JsonObject]:
    """Raises TypeError for anything but a list of objects."""
    if type(value) is not list or not all(type(entry) is dict for entry in value):
        raise TypeError("a list of objects is expected")
    return value


def without_nulls(fields: JsonObject) -> JsonObject:
    return {name: value for name, value in fields.items() if value is not None}


def select_fields(fields: JsonObject, names: tuple[str, ...]) -> JsonObject:
    return {name: fields[name] for name in names if fields.get(name) is not None}


def _clean_choice(choice: JsonObject) -> JsonObject:
    """`logprobs`, `message.content` and `message.refusal` are required, even if null."""
    found = select_fields(choice, CHOICE)
    found["logprobs"] = _clean_logprobs(choice)
    if type(choice.get("message")) is dict:
        found["message"] = {"content": None, "refusal": None, **select_fields(choice["message"], MESSAGE)}
    return found


def _clean_logprobs(choice: JsonObject) -> object:
    found = choice.get("logprobs")
    if type(found) is dict and "content" in found:
        return {"content": found["content"], "refusal": found.get("refusal")}
    return found


def _usage_fields(given: object, usage: TokenUsage) -> JsonObject:
    """The counts, with the prompt tokens that were cached (`cache_n`) and computed (`prompt_n`)."""
    found: JsonObject = {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.prompt + usage.completion,
        "cache_n": usage.cached,
        "prompt_n": usage.prompt - usage.cached,
    }
    if type(given) is dict:
        for name in ("prompt_tokens_details", "completion_tokens_details"):
            if type(given.get(name)) is dict:
                found[name] = without_nulls(given[name])
    return found


# --- refusals

TOO_LONG = re.compile(
    r"^(?!truncate).*(maximum (context|model) length|max_model_len|exceeds the available context)",
    re.IGNORECASE | re.DOTALL,
)
PROMPT_TOKENS = re.compile(r"(?:contains (?:at least )?|request \()(\d+) (?:input )?tokens")
LIMIT_TOKENS = re.compile(r"(?:context length is |max_model_len=|context size \()(\d+)")
TOO_LONG_TEXTS = {  # by whether the model answers, and whether the engine told the prompt's length
    (True, True): _(
        "This model's maximum context length is {limit} tokens. However, you requested at least {given} tokens in the "
        "prompt, and the answer needs room too."
    ),
    (True, False): _(
        "This model's maximum context length is {limit} tokens. However, you requested more for the prompt and the "
        "answer together."
    ),
    (False, True): _(
        "This model's maximum context length is {limit} tokens. However, you requested at least {given} tokens. "
        "Send shorter texts."
    ),
    (False, False): _(
        "This model's maximum context length is {limit} tokens. However, you requested more. Send shorter texts."
    ),
}
CONSTRAINT_FIELDS = ("response_format", "structured_outputs", "tools")
HIDDEN_STATUS = re.compile(r"for ChatCompletionStreamResponse\b.*'code': ([45]\d\d)\}\}", re.DOTALL)
NOT_OFFERED = (404, 405, 501)
REFUSALS = (  # pattern of an engine's message, the fields that it can mean, our message
    (
        r"requires .*(tool|--jinja)|tool.*(parser|not support)",
        ("tools",),
        _("This model is not set up for these tools."),
    ),
    (r"matryoshka", ("dimensions",), _("This model's vectors have one length only.")),
    (r"out of vocabulary", ("input", "prompt", "tokens"), _("A token id is none of the model's.")),
    (r"truncate", ("truncate_prompt_tokens",), _("This is more than the model's context.")),
    (r"schema|grammar|regex|structured", CONSTRAINT_FIELDS, _("The engine cannot hold to such a schema.")),
    (r"multimodal|image|audio", ("messages",), _("This model does not take such content.")),
    (r"chat template|roles?\b", ("messages",), _("The model cannot take this sequence of messages.")),
)


def engine_refusal(
    operation: Operation, request_fields: Collection[str], status: int, raw: bytes, model: ModelEntry
) -> errors.PlatformError:
    """Our error for an engine's reply that is not 200. `request_fields` are the fields of the request."""
    if operation.optional and status in NOT_OFFERED:
        text = _("The engine of this model does not offer {route}.")
        return errors.NotFound(format_lazy(text, route=operation.engine_path))
    if status in (429, 503):
        return errors.EngineUnavailable(_("The engine is overloaded. Try again shortly."), retry_after=5)
    if status not in (400, 413, 422):
        return errors.EngineUnavailable(_("The engine failed at this request. Its log tells why."))
    message, param = _engine_error(raw)
    known = param if param in operation.fields else None
    if TOO_LONG.search(message):
        return _too_long(operation, message, known or operation.required[0], model)
    for pattern, fields, our_message in REFUSALS:
        if re.search(pattern, message, re.IGNORECASE):
            return errors.InvalidRequest(
                our_message, param=next((field for field in fields if field in request_fields), None)
            )
    return errors.InvalidRequest(_("The engine does not accept this request."), param=known)


def error_event_status(raw: bytes) -> int:
    """The status in an engine's error event; 500 if it has none.

    vLLM's stream of /v1/messages cannot read its own error chunk; what it says of it ends with the chunk's status.
    """
    try:
        error = orjson.loads(raw)["error"]
        status: object = error.get("code")
        if type(status) is int:
            return status
        hidden = HIDDEN_STATUS.search(error["message"])
    except (orjson.JSONDecodeError, LookupError, TypeError, AttributeError):
        return 500
    return int(hidden[1]) if hidden else 500


def _engine_error(raw: bytes) -> tuple[str, str | None]:
    """Message and parameter of an error in vLLM's form. The message is never shown to clients."""
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return "", None
    error = body.get("error", body) if type(body) is dict else None
    if type(error) is not dict:
        return "", None
    param = error.get("param")
    return str(error.get("message", "")), param if type(param) is str else None


def _too_long(operation: Operation, message: str, param: str, model: ModelEntry) -> ContextTooLong:
    """Only numbers are taken from the engine's message. Clients look for the first sentence, which is OpenAI's."""
    limit, given = LIMIT_TOKENS.search(message), PROMPT_TOKENS.search(message)
    max_tokens = int(limit[1]) if limit else model.context
    answers = Mode.CHAT in operation.modes
    text = TOO_LONG_TEXTS[answers, bool(given)] if max_tokens else _("This request is too long for the model.")
    shown = format_lazy(text, limit=max_tokens, given=given and given[1])
    return ContextTooLong(shown, param=param, details={"context": max_tokens} if max_tokens else None)
