"""The front door: what this server is, and whether it is well."""

from django.conf import settings
from django.db import DatabaseError, InterfaceError
from django.shortcuts import redirect
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework.response import Response

from accounts.views import PublicView
from core.errors import now_z
from inference.models import Instance
from models_app.models import Model
from monitoring import health
from monitoring.serializers import ComponentDetailsSerializer, ComponentsSerializer, HealthSerializer, RootSerializer

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


def _told(components: dict, found: dict[str, health.Component]) -> Response:
    status = health.overall(found)
    body = {"status": status, "components": components, "timestamp": now_z()}
    return Response(body, status=200 if status == health.UP else 503)
