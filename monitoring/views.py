"""The front door: what this server is, and whether it is well."""

from django.conf import settings
from django.db import DatabaseError, InterfaceError
from django.http import JsonResponse
from django.shortcuts import redirect
from django.views.decorators.http import require_safe

from inference.models import Instance
from models_app.models import Model


@require_safe
def root(request):
    """JSON for programs; a browser is sent to the console."""
    if "text/html" in request.headers.get("Accept", ""):
        return redirect("/console/")
    return JsonResponse(
        {
            "message": "Serai API Server",
            "version": settings.VERSION,
            "models_url": "/v1/models",
            "docs_url": "/docs",
        }
    )


@require_safe
def health(request):
    """Public: counts, no names."""
    try:
        counts = {
            "models_count": Model.objects.count(),
            "running_models": Instance.objects.serving().values("model").distinct().count(),
        }
    except (DatabaseError, InterfaceError):
        return JsonResponse({"status": "degraded", "reason": "database"}, status=503)
    return JsonResponse({"status": "healthy", **counts})


@require_safe
def check_health(request):
    return JsonResponse({"status": "ok"})
