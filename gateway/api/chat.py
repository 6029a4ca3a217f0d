"""Checks of the fields of chat requests: messages, their parts, tools and answer formats."""

from django.utils.translation import gettext_lazy as _

from gateway.api import validators
from gateway.api.validators import (
    Check,
    Fields,
    boolean,
    check_fields,
    check_tool_choice,
    field_error,
    function_name,
    json_object,
    list_of,
    object_of,
    one_of,
    require_field,
    text,
    typed_object,
)
from gateway.json_types import JsonObject

MAX_MESSAGES, MAX_PARTS, MAX_TOOLS, MAX_ANSWER_CHOICES = 4096, 1024, 128, 256
ROLES = ("system", "developer", "user", "assistant", "tool")


def data_url(value: object, param: str) -> str:
    """Images must be part of the request: an engine never fetches a URL that a caller wrote."""
    if type(value) is not str or not value.startswith("data:"):
        raise field_error(param, _("must be a data: URL."))
    return value


image = object_of({"url": data_url, "detail": one_of("auto", "low", "high")}, "url")
audio = object_of({"data": text(), "format": one_of("wav", "mp3")}, "data", "format")
part = typed_object(
    {
        "text": ({"text": text()}, ("text",)),
        "image_url": ({"image_url": image}, ("image_url",)),
        "input_audio": ({"input_audio": audio}, ("input_audio",)),
    }
)
parts = list_of(part, MAX_PARTS)


def content(value: object, param: str) -> object:
    return value if type(value) is str else parts(value, param)


call = object_of(
    {
        "id": text(256),
        "type": one_of("function"),
        "function": object_of({"name": text(256, min_length=1), "arguments": text()}, "name", "arguments"),
    },
    "function",
)
MESSAGE_FIELDS: Fields = {
    "role": one_of(*ROLES),
    "content": content,
    "name": text(256),
    "tool_calls": list_of(call, MAX_TOOLS, min_length=0),
    "tool_call_id": text(256),
    "reasoning": text(),
    "reasoning_content": text(),
}


def message(value: object, param: str) -> JsonObject:
    where = f"{param}."
    given = json_object(value, param)
    if given.get("content") == [] and given.get("role") == "assistant":
        given = given | {"content": None}  # as some clients write a turn that has tool calls alone
    found = check_fields(MESSAGE_FIELDS, given, where)
    require_field(found, "role", where)
    if found["role"] != "assistant":
        require_field(found, "content", where)
    elif "content" not in found and not found.get("tool_calls"):
        raise field_error(f"{where}content", _("an assistant's message needs content or tool calls."))
    return found


messages = list_of(message, MAX_MESSAGES)

description = text(16_384)
function = object_of(
    {"name": function_name, "description": description, "parameters": validators.schema, "strict": boolean},
    "name",
)
tool = object_of({"type": one_of("function"), "function": function}, "type", "function")
tools = list_of(tool, MAX_TOOLS, min_length=0)
function_ref = object_of({"name": function_name}, "name")
named_tool = object_of({"type": one_of("function"), "function": function_ref}, "type", "function")


def tool_choice_of(named_tool: Check[JsonObject]) -> Check[str | JsonObject]:
    """A word, or a tool in the form of its API."""
    word = one_of("none", "auto", "required")
    return lambda value, param: word(value, param) if type(value) is str else named_tool(value, param)


tool_choice = tool_choice_of(named_tool)


def check_tools(payload: JsonObject) -> None:
    choice = payload.get("tool_choice", "none")
    chosen = None if type(choice) is str else choice["function"]["name"]
    names = {tool["function"]["name"] for tool in payload.get("tools", ())}
    check_tool_choice(payload, chosen, names, needed=choice not in ("none", "auto"))


named_schema = object_of(
    {"name": function_name, "description": description, "schema": validators.schema, "strict": boolean}, "name"
)
FORMAT_FIELDS: Fields = {"type": one_of("text", "json_object", "json_schema"), "json_schema": named_schema}


def response_format(value: object, param: str) -> JsonObject:
    found = check_fields(FORMAT_FIELDS, json_object(value, param), f"{param}.")
    require_field(found, "type", f"{param}.")
    if found["type"] == "json_schema":
        require_field(found, "json_schema", f"{param}.")
    else:
        found.pop("json_schema", None)
    return found


STRUCTURE_FIELDS: Fields = {
    "json": validators.schema,
    "regex": validators.pattern,
    "grammar": validators.pattern,
    "choice": list_of(text(1024, min_length=1), MAX_ANSWER_CHOICES),
    "json_object": boolean,
}


def structured_outputs(value: object, param: str) -> JsonObject:
    """vLLM's own field for constrained answers; exactly one kind at a time."""
    found = check_fields(STRUCTURE_FIELDS, json_object(value, param), f"{param}.")
    if len(found) != 1:
        raise field_error(param, _("must have exactly one of {allowed}."), allowed=", ".join(STRUCTURE_FIELDS))
    return found


template_switches = object_of({"enable_thinking": boolean, "thinking": boolean})
