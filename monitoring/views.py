"""The front door: what this server is, and whether it is well; and the figures."""

import orjson
from django.conf import settings
from django.db import DatabaseError, InterfaceError
from django.shortcuts import redirect
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework.renderers import BaseRenderer
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts import configuration
from accounts.policy import Permission
from accounts.views import PublicView
from core.errors import now_z
from core.inputs import checked
from inference.models import Instance
from models_app import services as catalogue
from models_app.models import Model
from monitoring import health, system
from monitoring.figures import prometheus, reports
from monitoring.serializers import (
    ComponentDetailsSerializer,
    ComponentsSerializer,
    GpuListSerializer,
    HealthSerializer,
    MetricsQuerySerializer,
    MetricsSerializer,
    PerformanceQuerySerializer,
    PerformanceReportSerializer,
    RootSerializer,
    SystemStatusSerializer,
)

DESCRIPTION = {
    "message": "Serai API Server",
    "version": settings.VERSION,
    "models_url": "/v1/models",
    "docs_url": "/docs",
}


class RootView(PublicView):
    @extend_schema(auth=[], responses=RootSerializer)
    def get(self, request):
        """JSON for programs; a browser is sent to the console."""
        if "text/html" in request.headers.get("Accept", ""):
            return redirect("/console/")
        return Response(DESCRIPTION)


class HealthView(PublicView):
    @extend_schema(auth=[], responses={200: HealthSerializer, 503: OpenApiTypes.OBJECT})
    def get(self, request):
        """Counts, no names. 503 and `degraded` while the database is away."""
        try:
            running = Instance.objects.serving().values("model").distinct().count()
            counts = {"models_count": Model.objects.count(), "running_models": running}
        except (DatabaseError, InterfaceError):
            return Response({"status": "degraded", "reason": "database"}, status=503)
        return Response({"status": "healthy", **counts})


class ComponentsView(PublicView):
    @extend_schema(auth=[], responses={200: ComponentsSerializer, 503: ComponentsSerializer})
    def get(self, request):
        """Each part of the platform in a word; 503 if one is down."""
        found = health.check()
        return _told({name: each.word for name, each in found.items()}, found)


class ComponentDetailsView(PublicView):
    @extend_schema(auth=[], responses={200: ComponentDetailsSerializer, 503: ComponentDetailsSerializer})
    def get(self, request):
        """Each part with counts and times; 503 if one is down."""
        found = health.check()
        shown = {name: {"status": each.word, "details": each.details} for name, each in found.items()}
        return _told(shown, found)


class CheckHealthView(PublicView):
    @extend_schema(auth=[], responses=OpenApiTypes.OBJECT)
    def get(self, request):
        """Whether this process answers at all."""
        return Response({"status": "ok"})


class SystemStatusView(APIView):
    permissions = {"GET": Permission.READ}

    @extend_schema(responses=SystemStatusSerializer)
    def get(self, request):
        """A tenant's own models and the totals of the machines; all of it for operators."""
        return Response(system.overview(request.auth))


class SystemGpuView(APIView):
    permissions = {"GET": Permission.OPERATE}

    @extend_schema(responses=GpuListSerializer)
    def get(self, request):
        """Every GPU of every live machine, as it was last sampled."""
        return Response({"gpus": system.gpus()})


class MetricsView(APIView):
    permissions = {"GET": Permission.READ}

    @extend_schema(parameters=[MetricsQuerySerializer], responses=MetricsSerializer)
    def get(self, request):
        """Machines together, over time; models too: for a tenant its own."""
        return Response(reports.metrics(request.auth, **checked(MetricsQuerySerializer, request.query_params)))


class PerformanceView(APIView):
    permissions = {"GET": Permission.READ}

    @extend_schema(parameters=[PerformanceQuerySerializer], responses=PerformanceReportSerializer)
    def get(self, request):
        """How long the requests of each model took, and how many failed."""
        query = checked(PerformanceQuerySerializer, request.query_params)
        ref = query.pop("model_id", None)
        model = catalogue.find(request.auth, ref) if ref else None
        return Response(reports.performance(request.auth, model=model, **query))


class PlainText(BaseRenderer):
    media_type, format, charset = "text/plain", "txt", None

    def render(self, data, accepted_media_type=None, renderer_context=None):
        return data.encode() if isinstance(data, str) else orjson.dumps(data)


class PrometheusView(APIView):
    permissions = {"GET": Permission.SCRAPE}
    renderer_classes = [PlainText]

    @extend_schema(responses={(200, "text/plain"): OpenApiTypes.STR})
    def get(self, request):
        """All figures in Prometheus' text form, from the store: every process tells the same."""
        text = prometheus.render(configuration.current().gpu_monitor_interval)
        return Response(text, content_type=prometheus.CONTENT_TYPE)


def _told(components: dict, found: dict[str, health.Component]) -> Response:
    status = health.overall(found)
    body = {"status": status, "components": components, "timestamp": now_z()}
    return Response(body, status=200 if status == health.UP else 503)
