"""The type of JSON that came from outside: its fields can hold anything until a check or a reader has looked."""

from typing import Any

JsonObject = dict[str, Any]
JsonList = list[Any]
