"""Checks of request fields: each returns the value to be forwarded or raises InvalidRequest with `param`."""

import re
from collections.abc import Callable

import orjson
from django.utils.text import format_lazy
from django.utils.translation import gettext_lazy as _

from core.errors import InvalidRequest

Check = Callable[[object, str], object]
Fields = dict[str, Check]

INT64 = 2**63
SCHEMA_DEPTH, SCHEMA_BYTES = 32, 64 * 1024
PATTERN_CHARS = 4096
TOKEN_IDS = 2**31
FUNCTION_NAME = re.compile(r"[\w-]{1,64}", re.ASCII)


def wrong(param: str, text, **values) -> InvalidRequest:
    message = format_lazy("{param}: {text}", param=param, text=format_lazy(text, **values))
    return InvalidRequest(message, param=param)


def clean(fields: Fields, body: dict, where: str = "") -> dict:
    """The checked fields of `body`; null counts as absent, and unlisted fields are dropped."""
    found = {}
    for name, value in body.items():
        check = fields.get(name)
        if check is not None and value is not None:
            found[name] = check(value, where + name)
    return found


def need(found: dict, name: str, where: str = "") -> None:
    if name not in found:
        raise wrong(where + name, _("this field is required."))


def boolean(value, param):
    if type(value) is not bool:
        raise wrong(param, _("must be true or false."))
    return value


def integer(low: int, high: int) -> Check:
    def check(value, param):
        if type(value) is not int:
            raise wrong(param, _("must be a whole number."))
        if not low <= value <= high:
            raise wrong(param, _("must be between {low} and {high}."), low=low, high=high)
        return value

    return check


def number(low: float, high: float, *, exclude_low: bool = False) -> Check:
    """A number from `low` to `high`; with `exclude_low`, `low` itself is refused."""

    def check(value, param):
        if type(value) is not float and type(value) is not int:
            raise wrong(param, _("must be a number."))
        if not low <= value <= high or (exclude_low and value == low):
            raise wrong(param, _("must be between {low} and {high}."), low=low, high=high)
        return value

    return check


def text(max_length: int | None = None, *, min_length: int = 0) -> Check:
    def check(value, param):
        if type(value) is not str:
            raise wrong(param, _("must be a text."))
        if len(value) < min_length or (max_length is not None and len(value) > max_length):
            raise wrong(param, _("must have between {low} and {high} characters."), low=min_length, high=max_length)
        return value

    return check


def one_of(*allowed: str) -> Check:
    def check(value, param):
        if type(value) is not str or value not in allowed:
            raise wrong(param, _("must be one of {allowed}."), allowed=", ".join(allowed))
        return value

    return check


def listing(check: Check, max_length: int, *, min_length: int = 1) -> Check:
    def check_all(value, param):
        if type(value) is not list:
            raise wrong(param, _("must be a list."))
        if not min_length <= len(value) <= max_length:
            raise wrong(param, _("must have between {low} and {high} entries."), low=min_length, high=max_length)
        return [check(entry, f"{param}[{index}]") for index, entry in enumerate(value)]

    return check_all


def mapping(value, param) -> dict:
    if type(value) is not dict:
        raise wrong(param, _("must be an object."))
    return value


def record(fields: Fields, *required: str) -> Check:
    """An object; only `fields` are kept."""

    def check(value, param):
        found = clean(fields, mapping(value, param), f"{param}.")
        for name in required:
            need(found, name, f"{param}.")
        return found

    return check


def variant(kinds: dict[str, tuple[Fields, tuple[str, ...]]], default: str | None = None) -> Check:
    """An object whose `type` selects the fields that are kept and those that are required."""

    def check(value, param):
        kind = mapping(value, param).get("type", default)
        if type(kind) is not str or kind not in kinds:
            raise wrong(f"{param}.type", _("must be one of {allowed}."), allowed=", ".join(kinds))
        fields, required = kinds[kind]
        return {"type": kind, **record(fields, *required)(value, param)}

    return check


def token_ids(value, param):
    if type(value) is not list or not all(type(token) is int and 0 <= token < TOKEN_IDS for token in value):
        raise wrong(param, _("must be a list of token ids."))
    return value


def stop(value, param):
    if type(value) is str:
        value = [value]
    return listing(text(256, min_length=1), 16, min_length=0)(value, param)


def logit_bias(value, param):
    if len(mapping(value, param)) > 300:
        raise wrong(param, _("must have at most {high} entries."), high=300)
    bias = number(-100, 100)
    for token, weight in value.items():
        if not (token.isascii() and token.isdigit() and len(token) < 10):
            raise wrong(param, _("must map token ids to numbers."))
        bias(weight, f"{param}.{token}")
    return value


def schema(value, param):
    """A JSON schema small enough to be compiled: limited in bytes, nesting and the length of its patterns."""
    mapping(value, param)
    if len(orjson.dumps(value)) > SCHEMA_BYTES:
        raise wrong(param, _("must have at most {high} bytes."), high=SCHEMA_BYTES)
    layer = [value]
    for _depth in range(SCHEMA_DEPTH):
        layer = [child for node in layer for child in _children(node, param)]
        if not layer:
            return value
    raise wrong(param, _("must be nested at most {high} levels deep."), high=SCHEMA_DEPTH)


def _children(node: dict | list, param: str) -> list:
    if type(node) is list:
        return [value for value in node if type(value) is dict or type(value) is list]
    if type(node.get("pattern")) is str:
        pattern(node["pattern"], f"{param}.pattern")
    return [value for value in node.values() if type(value) is dict or type(value) is list]


def pattern(value, param):
    return text(PATTERN_CHARS, min_length=1)(value, param)


def function_name(value, param):
    if type(value) is not str or not FUNCTION_NAME.fullmatch(value):
        raise wrong(param, _("must be 1 to 64 letters, digits, _ or -."))
    return value
