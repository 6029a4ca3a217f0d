"""Pages in the form of the service API: items, total, page, size, pages."""

from collections.abc import Sequence
from typing import Any

from django.db.models import QuerySet
from django.utils.translation import gettext as _
from rest_framework.pagination import BasePagination
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from core.errors import InvalidRequest

DEFAULT_SIZE, MAX_SIZE = 20, 100


class PagePagination(BasePagination):
    """`page` counts from 1; `size` is 20 by default, at most 100. A page past the end is empty."""

    parameters = ("page", "size")

    def paginate_queryset(
        self, queryset: QuerySet[Any, Any] | Sequence[Any], request: Request, view: APIView | None = None
    ) -> list[Any]:
        assert isinstance(queryset, QuerySet)
        self.page = query_integer(request, "page", 1, 1_000_000)
        self.size = query_integer(request, "size", DEFAULT_SIZE, MAX_SIZE)
        self.total = queryset.count()
        start = (self.page - 1) * self.size
        return list(queryset[start : start + self.size])

    def get_paginated_response(self, data: Any) -> Response:
        return Response(
            {
                "items": data,
                "total": self.total,
                "page": self.page,
                "size": self.size,
                "pages": -(-self.total // self.size),
            }
        )

    def get_paginated_response_schema(self, schema: dict[str, Any]) -> dict[str, Any]:
        number = {"type": "integer"}
        properties = {"items": schema, "total": number, "page": number, "size": number, "pages": number}
        return {"type": "object", "required": list(properties), "properties": properties}

    def get_schema_operation_parameters(self, view: APIView) -> list[dict[str, Any]]:
        return [
            {"name": name, "in": "query", "required": False, "schema": {"type": "integer", "minimum": 1, **limits}}
            for name, limits in (("page", {"default": 1}), ("size", {"default": DEFAULT_SIZE, "maximum": MAX_SIZE}))
        ]


def query_integer(request: Request, name: str, default: int, max_value: int) -> int:
    """An integer query parameter from 1 to `max_value`. Raises InvalidRequest."""
    text = request.query_params.get(name, str(default))
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= max_value):
        raise InvalidRequest(
            _("%(name)s must be a whole number from 1 to %(most)d.") % {"name": name, "most": max_value}, param=name
        )
    return int(text)
