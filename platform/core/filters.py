"""Query parameters that choose the rows of a list: an unknown or wrong one is refused by name, never ignored."""

from collections.abc import Iterable
from typing import Any

from django import forms
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext as _
from django_filters.rest_framework import DjangoFilterBackend
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.views import APIView

from core.pagination import PagePagination
from core.parsers import unknown_parameters


class FilterBackend(DjangoFilterBackend):
    """Reads filters for lists only: a row is found by its id, and the parameters of its other routes are no filters."""

    def filter_queryset(self, request: HttpRequest, queryset: QuerySet[Any], view: APIView) -> QuerySet[Any]:
        if getattr(view, "action", None) != "list":
            return queryset
        assert isinstance(request, Request)
        filterset = self.get_filterset(request, queryset, view)
        names = filterset.filters.keys() if filterset else ()
        errors = unknown_parameters(request, {*names, *PagePagination.parameters})
        if filterset:
            errors |= _wrong_values(filterset.form)
        if errors:
            raise ValidationError(errors)
        return filterset.qs if filterset else queryset


def _wrong_values(form: forms.Form) -> dict[str, str]:
    """Filter → error, which names the values that there are."""
    errors = {name: " ".join(map(str, texts)) for name, texts in form.errors.items()}
    for name, field in form.fields.items():
        if (name in errors or _is_no_truth_value(form, name)) and (choices := _choices(field)):
            errors[name] = _("Expected one of: %(choices)s.") % {"choices": ", ".join(choices)}
    return errors


def _is_no_truth_value(form: forms.Form, name: str) -> bool:
    """Django reads any other text as no wish at all."""
    asked = isinstance(form.fields[name], forms.NullBooleanField) and form.data.get(name)
    return bool(asked) and form.cleaned_data.get(name) is None


def _choices(field: forms.Field) -> list[str]:
    if isinstance(field, forms.NullBooleanField):
        return ["true", "false"]
    choices = field.choices if isinstance(field, forms.ChoiceField) else ()
    return [str(pair[0]) for pair in choices if pair[0]] if isinstance(choices, Iterable) else []
