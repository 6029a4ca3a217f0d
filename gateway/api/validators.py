"""Checks of request fields: each returns the value to be forwarded or raises InvalidRequest with `param`."""

import re
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, TypeVar

import orjson
from django.utils.text import format_lazy
from django.utils.translation import gettext_lazy as _

from core.errors import InvalidRequest
from gateway.json_types import JsonObject

if TYPE_CHECKING:
    from django_stubs_ext import StrOrPromise

Value = TypeVar("Value")
Check = Callable[[object, str], Value]
Fields = dict[str, Check[object]]
Kinds = Mapping[str, tuple[Fields, tuple[str, ...]]]  # an object's type → its fields and those that are required

INT64 = 2**63
MAX_SCHEMA_DEPTH, MAX_SCHEMA_BYTES = 32, 64 * 1024
MAX_PATTERN_LENGTH = 4096
TOKEN_ID_LIMIT = 2**31
FUNCTION_NAME = re.compile(r"[\w-]{1,64}", re.ASCII)


def field_error(param: str, text: "StrOrPromise", **values: object) -> InvalidRequest:
    message = format_lazy("{param}: {text}", param=param, text=format_lazy(text, **values))
    return InvalidRequest(message, param=param)


def check_fields(fields: Fields, body: JsonObject, where: str = "") -> JsonObject:
    """The checked fields of `body`; null counts as absent, and unlisted fields are dropped."""
    found = {}
    for name, value in body.items():
        check = fields.get(name)
        if check is not None and value is not None:
            found[name] = check(value, where + name)
    return found


def require_field(found: JsonObject, name: str, where: str = "") -> None:
    if name not in found:
        raise field_error(where + name, _("this field is required."))


def boolean(value: object, param: str) -> bool:
    if type(value) is not bool:
        raise field_error(param, _("must be true or false."))
    return value


def integer(low: int, high: int) -> Check[int]:
    def check(value: object, param: str) -> int:
        if type(value) is not int:
            raise field_error(param, _("must be a whole number."))
        if not low <= value <= high:
            raise field_error(param, _("must be between {low} and {high}."), low=low, high=high)
        return value

    return check


def number(low: float, high: float, *, exclude_low: bool = False) -> Check[float]:
    """A number from `low` to `high`; with `exclude_low`, `low` itself is refused."""

    def check(value: object, param: str) -> float:
        if type(value) is not float and type(value) is not int:
            raise field_error(param, _("must be a number."))
        if not low <= value <= high or (exclude_low and value == low):
            raise field_error(param, _("must be between {low} and {high}."), low=low, high=high)
        return value

    return check


def text(max_length: int | None = None, *, min_length: int = 0) -> Check[str]:
    def check(value: object, param: str) -> str:
        if type(value) is not str:
            raise field_error(param, _("must be a text."))
        if max_length is None:
            if len(value) < min_length:
                raise field_error(param, _("must not be empty."))
        elif not min_length <= len(value) <= max_length:
            sentence = _("must have between {low} and {high} characters.")
            raise field_error(param, sentence, low=min_length, high=max_length)
        return value

    return check


def one_of(*allowed: str) -> Check[str]:
    def check(value: object, param: str) -> str:
        if type(value) is not str or value not in allowed:
            raise field_error(param, _("must be one of {allowed}."), allowed=", ".join(allowed))
        return value

    return check


def list_of(check: Check[Value], max_length: int, *, min_length: int = 1) -> Check[list[Value]]:
    def check_all(value: object, param: str) -> list[Value]:
        if type(value) is not list:
            raise field_error(param, _("must be a list."))
        if not min_length <= len(value) <= max_length:
            raise field_error(param, _("must have between {low} and {high} entries."), low=min_length, high=max_length)
        return [check(entry, f"{param}[{index}]") for index, entry in enumerate(value)]

    return check_all


def json_object(value: object, param: str) -> JsonObject:
    if type(value) is not dict:
        raise field_error(param, _("must be an object."))
    return value


def object_of(fields: Fields, *required: str) -> Check[JsonObject]:
    """An object; only `fields` are kept."""

    def check(value: object, param: str) -> JsonObject:
        found = check_fields(fields, json_object(value, param), f"{param}.")
        for name in required:
            require_field(found, name, f"{param}.")
        return found

    return check


def typed_object(kinds: Kinds, default: str | None = None) -> Check[JsonObject]:
    """An object whose `type` selects the fields that are kept and those that are required."""

    def check(value: object, param: str) -> JsonObject:
        kind = json_object(value, param).get("type", default)
        if type(kind) is not str or kind not in kinds:
            raise field_error(f"{param}.type", _("must be one of {allowed}."), allowed=", ".join(kinds))
        fields, required = kinds[kind]
        return {"type": kind, **object_of(fields, *required)(value, param)}

    return check


def check_tool_choice(payload: JsonObject, chosen: str | None, names: Collection[str], *, needed: bool) -> None:
    """Leave out an empty list of tools and a free choice among none; another choice needs tools of these `names`."""
    if not names:
        payload.pop("tools", None)
        if not needed:
            payload.pop("tool_choice", None)
    if needed and not names:
        raise field_error("tool_choice", _("needs tools."))
    if chosen is not None and chosen not in names:
        raise field_error("tool_choice", _("names no tool of this request."))


def token_ids(value: object, param: str) -> list[int]:
    if type(value) is not list or not all(type(token) is int and 0 <= token < TOKEN_ID_LIMIT for token in value):
        raise field_error(param, _("must be a list of token ids."))
    return value


def stop(value: object, param: str) -> list[str]:
    if type(value) is str:
        value = [value]
    return list_of(text(256, min_length=1), 16, min_length=0)(value, param)


def logit_bias(value: object, param: str) -> JsonObject:
    weights = json_object(value, param)
    if len(weights) > 300:
        raise field_error(param, _("must have at most {high} entries."), high=300)
    bias = number(-100, 100)
    for token, weight in weights.items():
        if not (token.isascii() and token.isdigit() and len(token) < 10):
            raise field_error(param, _("must map token ids to numbers."))
        bias(weight, f"{param}.{token}")
    return weights


def schema(value: object, param: str) -> JsonObject:
    """A JSON schema small enough to be compiled: limited in bytes, nesting and the length of its patterns."""
    found = json_object(value, param)
    if len(orjson.dumps(found)) > MAX_SCHEMA_BYTES:
        raise field_error(param, _("must have at most {high} bytes."), high=MAX_SCHEMA_BYTES)
    layer: list[JsonObject | list[object]] = [found]
    for _depth in range(MAX_SCHEMA_DEPTH):
        layer = [child for node in layer for child in _children(node, param)]
        if not layer:
            return found
    raise field_error(param, _("must be nested at most {high} levels deep."), high=MAX_SCHEMA_DEPTH)


def _children(node: JsonObject | list[object], param: str) -> list[JsonObject | list[object]]:
    if isinstance(node, dict) and type(node.get("pattern")) is str:
        pattern(node["pattern"], f"{param}.pattern")
    entries = node.values() if isinstance(node, dict) else node
    return [entry for entry in entries if isinstance(entry, (dict, list))]


def pattern(value: object, param: str) -> str:
    return text(MAX_PATTERN_LENGTH, min_length=1)(value, param)


def function_name(value: object, param: str) -> str:
    if type(value) is not str or not FUNCTION_NAME.fullmatch(value):
        raise field_error(param, _("must be 1 to 64 letters, digits, _ or -."))
    return value
