"""Request data: JSON read strictly (what would fail later in Postgres or Python is refused), then validated."""

from collections.abc import Mapping
from typing import IO, Any

import orjson
from django.utils.translation import gettext as _
from rest_framework import parsers
from rest_framework.exceptions import ParseError
from rest_framework.serializers import BaseSerializer


class JsonParser(parsers.JSONParser):
    """Refuses NaN, lone surrogates, endless nesting (all by orjson) and NUL, which no text column can store."""

    def parse(
        self, stream: IO[Any], media_type: str | None = None, parser_context: Mapping[str, Any] | None = None
    ) -> Any:
        raw = stream.read()
        if b"\\u0000" in raw:
            raise ParseError(_("A text must not hold NUL."))
        try:
            return orjson.loads(raw)
        except orjson.JSONDecodeError:
            raise ParseError(_("The body is not valid JSON.")) from None


def validated(serializer_class: type[BaseSerializer[Any]], data: object, **options: Any) -> dict[str, Any]:
    """Raises rest_framework's ValidationError."""
    serializer = serializer_class(data=data, **options)
    serializer.is_valid(raise_exception=True)
    return dict(serializer.validated_data)
