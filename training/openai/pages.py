"""Lists in OpenAI's format: `limit` rows after the row `after`, and whether there are more."""

from django.db.models import Q
from django.utils.translation import gettext as _
from drf_spectacular.utils import inline_serializer
from rest_framework.pagination import BasePagination
from rest_framework.response import Response
from rest_framework.serializers import BooleanField, CharField, DictField, ListField

from core.errors import InvalidRequest
from core.pagination import query_integer

DEFAULT_LIMIT, MAX_LIMIT = 20, 100
ORDERS = ("asc", "desc")


class CursorPagination(BasePagination):
    """Ordered by `created_at` and primary key, newest first unless `order=asc`."""

    def paginate_queryset(self, queryset, request, view=None):
        limit = query_integer(request, "limit", DEFAULT_LIMIT, MAX_LIMIT)
        ascending = _is_ascending(request)
        if after := request.query_params.get("after"):
            queryset = _after(queryset, after, ascending)
        by = ("created_at", "pk") if ascending else ("-created_at", "-pk")
        rows = list(queryset.order_by(*by)[: limit + 1])
        self.has_more = len(rows) > limit
        return rows[:limit]

    def get_paginated_response(self, data):
        return Response(render_list(data, self.has_more))

    def get_paginated_response_schema(self, schema):
        properties = {
            "object": {"type": "string", "enum": ["list"]},
            "data": schema,
            "first_id": {"type": "string", "nullable": True},
            "last_id": {"type": "string", "nullable": True},
            "has_more": {"type": "boolean"},
        }
        return {"type": "object", "required": ["object", "data", "has_more"], "properties": properties}

    def get_schema_operation_parameters(self, view):
        limit = {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT}
        order = {"type": "string", "enum": list(ORDERS), "default": "desc"}
        schemas = {"limit": limit, "after": {"type": "string"}, "order": order}
        return [{"name": name, "in": "query", "required": False, "schema": schema} for name, schema in schemas.items()]


LIST_SCHEMA = inline_serializer(
    "List", {"object": CharField(), "data": ListField(child=DictField()), "has_more": BooleanField()}
)


def render_list(data: list[dict], has_more: bool) -> dict:
    ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {"first_id": None, "last_id": None}
    return {"object": "list", "data": data, **ends, "has_more": has_more}


def _is_ascending(request) -> bool:
    """Raises InvalidRequest."""
    order = request.query_params.get("order", "desc")
    if order not in ORDERS:
        raise InvalidRequest(_("Expected one of: %(choices)s.") % {"choices": ", ".join(ORDERS)}, param="order")
    return order == "asc"


def _after(queryset, after: str, ascending: bool):
    row = queryset.filter(pk=after).first()
    if row is None:
        raise InvalidRequest(_("There is nothing of this id to go on after."), param="after")
    side = "gt" if ascending else "lt"
    later = Q(**{f"created_at__{side}": row.created_at})
    return queryset.filter(later | Q(created_at=row.created_at, **{f"pk__{side}": row.pk}))
