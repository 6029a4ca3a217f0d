"""REST views for the engines' output: last lines, streams, statistics, clearing."""

from collections.abc import Callable

from django.db.models import QuerySet
from django.utils.translation import gettext as _
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts import audit, credential_identity
from accounts.actor import Actor
from accounts.policy import Permission
from accounts.tickets import TicketAuthentication
from core.parsers import refuse_body, validated_query
from core.streaming import AlwaysJson, EventStream
from inference.logs import services
from inference.logs.feed import LogReader, open_feed, parse_resume_id
from inference.logs.log_responses import ManagerLogFormat, ServiceLogFormat, render_line
from inference.logs.serializers import (
    ClearedSerializer,
    ClearQuerySerializer,
    LogQuerySerializer,
    LogsSerializer,
    LogStatsReplySerializer,
    StreamQuerySerializer,
)
from models_app import services as catalogue
from models_app.models import Model

EVENTS = {(200, "text/event-stream"): OpenApiTypes.STR}


class StreamingView(APIView):
    """Also accepts a ticket, for browsers."""

    authentication_classes = [TicketAuthentication, *APIView.authentication_classes]
    content_negotiation_class = AlwaysJson
    permissions = {"GET": Permission.READ}

    def stream(self, request, name: str, rows: Callable[[Actor], QuerySet], query: dict, form) -> EventStream:
        """Stream the lines of the row with id `name`, while `rows(actor)` contains that row.

        Resumes after the client's last line if the client sends its id; a browser's EventSource does so by itself.
        """
        resume_after = parse_resume_id(query.get("last_event_id") or request.headers.get("Last-Event-ID"))
        reader = LogReader(
            credential_identity.identity_of_request(request),
            request.auth,
            name,
            rows,
            query["lines"],
            resume_after,
            form,
        )
        quota_owner = "operators" if request.auth.sees_all else request.auth.tenant.pk
        return EventStream(open_feed(reader), quota_owner)


class LogsView(StreamingView):
    @extend_schema(parameters=[LogQuerySerializer], responses={200: LogsSerializer, **EVENTS})
    def get(self, request, ref):
        model = catalogue.find_own(request.auth, ref)
        query, whole = validated_query(LogQuerySerializer, request), request.auth.is_operator
        if query["follow"]:
            return self.stream(request, model.pk, Model.objects.usable_by, query, ServiceLogFormat(whole))
        lines = services.latest(model.pk, query["lines"])
        return Response({"logs": [render_line(line, whole=whole) for line in lines]})


class LogStreamView(StreamingView):
    @extend_schema(parameters=[StreamQuerySerializer], responses=EVENTS)
    def get(self, request, ref):
        model = catalogue.find_own(request.auth, ref)
        query = validated_query(StreamQuerySerializer, request)
        return self.stream(
            request, model.pk, Model.objects.usable_by, query, ManagerLogFormat(request.auth.is_operator)
        )


class LogStatsView(APIView):
    permissions = {"GET": Permission.READ}

    @extend_schema(responses=LogStatsReplySerializer)
    def get(self, request):
        return Response({"success": True, "stats": services.stats(request.auth)})


class ClearLogsView(APIView):
    permissions = {"POST": Permission.RUN_MODELS}

    @extend_schema(parameters=[ClearQuerySerializer], request=None, responses=ClearedSerializer)
    def post(self, request, ref):
        refuse_body(request)
        model = catalogue.find_own(request.auth, ref)
        minutes = validated_query(ClearQuerySerializer, request)["keep_minutes"]
        count = services.clear(model, minutes)
        audit.record(request.auth, "model.clear_logs", model, request=request, keep_minutes=minutes, lines=count)
        return Response({"success": True, "message": self._message(model, minutes, count)})

    def _message(self, model, minutes: int, count: int) -> str:
        values = {"model": model.name, "minutes": minutes, "count": count}
        if minutes:
            return _("Model '%(model)s': logs older than %(minutes)d minutes cleared, %(count)d lines.") % values
        return _("Model '%(model)s': all logs cleared, %(count)d lines.") % values
