"""JSON bodies, read strictly: what would fail later in Postgres or Python is refused here."""

import orjson
from django.utils.translation import gettext as _
from rest_framework import parsers
from rest_framework.exceptions import ParseError


class JsonParser(parsers.JSONParser):
    """Refuses NaN, lone surrogates, endless nesting (all by orjson) and NUL, which no text column can store."""

    def parse(self, stream, media_type=None, parser_context=None):
        raw = stream.read()
        if b"\\u0000" in raw:
            raise ParseError(_("A text must not hold NUL."))
        try:
            return orjson.loads(raw)
        except orjson.JSONDecodeError:
            raise ParseError(_("The body is not valid JSON.")) from None
