"""REST views: what this server is, its health, and its metrics."""

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
from core.parsers import validated_query
from core.times import utc_timestamp
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
        """JSON for programs; browsers are redirected to the console."""
        if "text/html" in request.headers.get("Accept", ""):
            return redirect("/console/")
        return Response(DESCRIPTION)

    def perform_content_negotiation(self, request, force=False):
        """Never 406: who takes nothing but HTML is redirected, everybody else is sent JSON."""
        return super().perform_content_negotiation(request, force=True)


class HealthView(PublicView):
    @extend_schema(auth=[], responses={200: HealthSerializer, 503: OpenApiTypes.OBJECT})
    def get(self, request):
        """Counts, no names. 503 and `degraded` while the database is unreachable."""
        try:
            running = Instance.objects.serving().values("model").distinct().count()
            counts = {"models_count": Model.objects.count(), "running_models": running}
        except (DatabaseError, InterfaceError):
            return Response({"status": "degraded", "reason": "database"}, status=503)
        return Response({"status": "healthy", **counts})


class ComponentsView(PublicView):
    @extend_schema(auth=[], responses={200: ComponentsSerializer, 503: ComponentsSerializer})
    def get(self, request):
        """The status of each component; 503 if one is down."""
        components = health.check_components()
        return _health_response({name: component.status for name, component in components.items()}, components)


class ComponentDetailsView(PublicView):
    @extend_schema(auth=[], responses={200: ComponentDetailsSerializer, 503: ComponentDetailsSerializer})
    def get(self, request):
        """Each component with counts and times; 503 if one is down."""
        components = health.check_components()
        shown = {
            name: {"status": component.status, "details": component.details} for name, component in components.items()
        }
        return _health_response(shown, components)


class CheckHealthView(PublicView):
    @extend_schema(auth=[], responses=OpenApiTypes.OBJECT)
    def get(self, request):
        """Answers if this process runs."""
        return Response({"status": "ok"})


class SystemStatusView(APIView):
    permissions = {"GET": Permission.READ}

    @extend_schema(responses=SystemStatusSerializer)
    def get(self, request):
        """A tenant's own models and machine totals; operators see everything."""
        return Response(system.overview(request.auth))


class SystemGpuView(APIView):
    permissions = {"GET": Permission.OPERATE}

    @extend_schema(responses=GpuListSerializer)
    def get(self, request):
        """The latest sample of every GPU of every machine that is online."""
        return Response({"gpus": system.gpus()})


class MetricsView(APIView):
    permissions = {"GET": Permission.READ}

    @extend_schema(parameters=[MetricsQuerySerializer], responses=MetricsSerializer)
    def get(self, request):
        """Machine totals and model metrics over time. Of other tenants' models a tenant sees only its own requests."""
        return Response(reports.metrics(request.auth, **validated_query(MetricsQuerySerializer, request)))


class PerformanceView(APIView):
    permissions = {"GET": Permission.READ}

    @extend_schema(parameters=[PerformanceQuerySerializer], responses=PerformanceReportSerializer)
    def get(self, request):
        """Durations and failures of the requests of each model."""
        query = validated_query(PerformanceQuerySerializer, request)
        model_ref = query.pop("model_id", None)
        model = catalogue.find(request.auth, model_ref) if model_ref else None
        return Response(reports.performance(request.auth, model=model, **query))


class PlainTextRenderer(BaseRenderer):
    media_type, format, charset = "text/plain", "txt", None

    def render(self, data, accepted_media_type=None, renderer_context=None):
        return data.encode() if isinstance(data, str) else orjson.dumps(data)


class PrometheusView(APIView):
    permissions = {"GET": Permission.SCRAPE}
    renderer_classes = [PlainTextRenderer]

    @extend_schema(responses={(200, "text/plain"): OpenApiTypes.STR})
    def get(self, request):
        """All metrics in Prometheus' text format. Every process gives the same answer."""
        text = prometheus.render(configuration.current().gpu_monitor_interval)
        return Response(text, content_type=prometheus.CONTENT_TYPE)


def _health_response(shown: dict, components: dict[str, health.ComponentHealth]) -> Response:
    status = health.overall_status(components)
    body = {"status": status, "components": shown, "timestamp": utc_timestamp()}
    return Response(body, status=200 if status == health.UP else 503)
