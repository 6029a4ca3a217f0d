"""Checks of the fields of chat requests: messages, their parts, tools and answer formats."""

from django.utils.translation import gettext_lazy as _

from gateway.api import validators
from gateway.api.validators import (
    boolean,
    clean,
    function_name,
    listing,
    mapping,
    need,
    one_of,
    record,
    text,
    variant,
    wrong,
)

MESSAGES, PARTS, TOOLS, CHOICES = 4096, 1024, 128, 256
ROLES = ("system", "developer", "user", "assistant", "tool")


def data_url(value, param):
    """Images must be part of the request: an engine never fetches a URL that a caller wrote."""
    if type(value) is not str or not value.startswith("data:"):
        raise wrong(param, _("must be a data: URL."))
    return value


image = record({"url": data_url, "detail": one_of("auto", "low", "high")}, "url")
audio = record({"data": text(), "format": one_of("wav", "mp3")}, "data", "format")
part = variant(
    {
        "text": ({"text": text()}, ("text",)),
        "image_url": ({"image_url": image}, ("image_url",)),
        "input_audio": ({"input_audio": audio}, ("input_audio",)),
    }
)
parts = listing(part, PARTS)


def content(value, param):
    return value if type(value) is str else parts(value, param)


call = record(
    {
        "id": text(256),
        "type": one_of("function"),
        "function": record({"name": text(256, min_length=1), "arguments": text()}, "name", "arguments"),
    },
    "function",
)
MESSAGE_FIELDS = {
    "role": one_of(*ROLES),
    "content": content,
    "name": text(256),
    "tool_calls": listing(call, TOOLS, min_length=0),
    "tool_call_id": text(256),
    "reasoning": text(),
    "reasoning_content": text(),
}


def message(value, param):
    where = f"{param}."
    found = clean(MESSAGE_FIELDS, mapping(value, param), where)
    need(found, "role", where)
    if found["role"] != "assistant":
        need(found, "content", where)
    elif "content" not in found and not found.get("tool_calls"):
        raise wrong(f"{where}content", _("an assistant's message needs content or tool calls."))
    return found


messages = listing(message, MESSAGES)

description = text(16_384)
function = record(
    {"name": function_name, "description": description, "parameters": validators.schema, "strict": boolean},
    "name",
)
tool = record({"type": one_of("function"), "function": function}, "type", "function")
tools = listing(tool, TOOLS, min_length=0)
function_ref = record({"name": function_name}, "name")
named_tool = record({"type": one_of("function"), "function": function_ref}, "type", "function")


def tool_choice(value, param):
    if type(value) is str:
        return one_of("none", "auto", "required")(value, param)
    return named_tool(value, param)


named_schema = record(
    {"name": function_name, "description": description, "schema": validators.schema, "strict": boolean}, "name"
)
FORMAT_FIELDS = {"type": one_of("text", "json_object", "json_schema"), "json_schema": named_schema}


def response_format(value, param):
    found = clean(FORMAT_FIELDS, mapping(value, param), f"{param}.")
    need(found, "type", f"{param}.")
    if found["type"] == "json_schema":
        need(found, "json_schema", f"{param}.")
    else:
        found.pop("json_schema", None)
    return found


STRUCTURE_FIELDS = {
    "json": validators.schema,
    "regex": validators.pattern,
    "grammar": validators.pattern,
    "choice": listing(text(1024, min_length=1), CHOICES),
    "json_object": boolean,
}


def structured_outputs(value, param):
    """vLLM's own field for constrained answers; exactly one kind at a time."""
    found = clean(STRUCTURE_FIELDS, mapping(value, param), f"{param}.")
    if len(found) != 1:
        raise wrong(param, _("must have exactly one of {allowed}."), allowed=", ".join(STRUCTURE_FIELDS))
    return found


template_switches = record({"enable_thinking": boolean, "thinking": boolean})
