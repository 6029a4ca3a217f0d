"""The front door: what this server is, and whether it is well."""

from django.conf import settings
from django.db import DatabaseError, InterfaceError
from django.shortcuts import redirect
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework.response import Response

from accounts.views import PublicView
from inference.models import Instance
from models_app.models import Model

DESCRIPTION = {
    "message": "Serai API Server",
    "version": settings.VERSION,
    "models_url": "/v1/models",
    "docs_url": "/docs",
}


class RootView(PublicView):
    @extend_schema(auth=[], responses=OpenApiTypes.OBJECT)
    def get(self, request):
        """JSON for programs; a browser is sent to the console."""
        if "text/html" in request.headers.get("Accept", ""):
            return redirect("/console/")
        return Response(DESCRIPTION)


class HealthView(PublicView):
    @extend_schema(auth=[], responses=OpenApiTypes.OBJECT)
    def get(self, request):
        """Counts, no names. 503 and `degraded` while the database is away."""
        try:
            running = Instance.objects.serving().values("model").distinct().count()
            counts = {"models_count": Model.objects.count(), "running_models": running}
        except (DatabaseError, InterfaceError):
            return Response({"status": "degraded", "reason": "database"}, status=503)
        return Response({"status": "healthy", **counts})


class CheckHealthView(PublicView):
    @extend_schema(auth=[], responses=OpenApiTypes.OBJECT)
    def get(self, request):
        """Whether this process answers at all."""
        return Response({"status": "ok"})
