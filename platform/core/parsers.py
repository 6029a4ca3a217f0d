"""Request data: JSON read strictly (what would fail later in Postgres or Python is refused), then validated.

A name that no serializer knows is refused too, so that no wish is lost in silence.
"""

from collections.abc import Collection, Iterator, Mapping
from itertools import islice
from typing import IO, Any

import orjson
from django.http import QueryDict
from django.utils.translation import gettext as _
from rest_framework import parsers, serializers
from rest_framework.exceptions import ParseError, ValidationError
from rest_framework.request import Request
from rest_framework.serializers import BaseSerializer

from core.client_names import MAX_NAMES, printable_name


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


def validated(
    serializer_class: type[BaseSerializer[Any]],
    data: object,
    *,
    shown: type[BaseSerializer[Any]] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Raises rest_framework's ValidationError.

    `shown` is the serializer of the same object's GET: its fields may be sent back, and are left alone.
    """
    return dict(checked(serializer_class(data=data, **options), shown).validated_data)


def checked(serializer: BaseSerializer[Any], shown: type[BaseSerializer[Any]] | None = None) -> BaseSerializer[Any]:
    """The serializer, valid. Raises rest_framework's ValidationError with all wrong and all unknown fields."""
    errors = {} if serializer.is_valid() else dict(serializer.errors)
    data = serializer.initial_data
    of_forms = {"csrfmiddlewaretoken"} if isinstance(data, QueryDict) else set()  # the console's
    names = unknown_names(serializer, data, _shown_names(shown) | of_forms)
    if errors := errors | {printable_name(name): _unknown_field(place) for name, place in names}:
        raise ValidationError(errors)
    return serializer


def validated_query(
    serializer_class: type[serializers.Serializer[Any]], request: Request, *, also: Collection[str] = ()
) -> dict[str, Any]:
    """Query parameters; those in `also` are read elsewhere. Raises rest_framework's ValidationError."""
    serializer = serializer_class(data=request.query_params)
    errors = {} if serializer.is_valid() else dict(serializer.errors)
    if errors := errors | unknown_parameters(request, {*serializer.fields, *also}):
        raise ValidationError(errors)
    return dict(serializer.validated_data)


def refuse_body(request: Request) -> None:
    """For routes that take none. Raises rest_framework's ValidationError for a body with fields."""
    validated(serializers.Serializer, request.data or {})


def unknown_names(
    serializer: BaseSerializer[Any], data: object, shown: Collection[str] = ()
) -> list[tuple[str, serializers.Serializer[Any]]]:
    """The first names in `data`, nested ones too, that a serializer does not know, and that serializer."""
    return list(islice(_walk_field(serializer, data, shown, ""), MAX_NAMES))


def unknown_parameters(request: Request, known: Collection[str]) -> dict[str, str]:
    """Query parameter that is none of `known` → error. A parameter that holds the credential is no wish."""
    credentials = {getattr(each, "query_parameter", None) for each in request.authenticators or ()}
    unknown = [name for name in request.query_params if name not in known and name not in credentials]
    text = _("There is no such query parameter. Expected one of: %(names)s.") % {"names": ", ".join(sorted(known))}
    return {printable_name(name): text for name in unknown[:MAX_NAMES]}


def _walk_field(
    field: object, value: object, shown: Collection[str], where: str
) -> Iterator[tuple[str, serializers.Serializer[Any]]]:
    """Values of the wrong type have the serializer's own error; free-form objects have a check of their own."""
    if isinstance(field, serializers.Serializer) and isinstance(value, Mapping):
        for name, part in value.items():
            if name not in field.fields:
                if name not in shown:
                    yield where + name, field
            elif not field.fields[name].read_only:
                yield from _walk_field(field.fields[name], part, (), f"{where}{name}.")
    elif isinstance(field, serializers.ListSerializer | serializers.ListField) and isinstance(value, list):
        for index, part in enumerate(value):
            yield from _walk_field(field.child, part, (), f"{where}{index}.")


def _shown_names(shown: type[BaseSerializer[Any]] | None) -> set[str]:
    serializer = shown() if shown else None
    if not isinstance(serializer, serializers.Serializer):
        return set()
    return {name for name, field in serializer.fields.items() if not field.write_only}


def _unknown_field(serializer: serializers.Serializer[Any]) -> str:
    names = [name for name, field in serializer.fields.items() if not field.read_only]
    if not names:
        return _("This route takes no fields.")
    return _("There is no such field. Expected one of: %(names)s.") % {"names": ", ".join(names)}
