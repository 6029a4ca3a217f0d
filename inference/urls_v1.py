"""REST routes whose replies below /api/v1 differ from those below /api."""

from django.urls import path

from inference.views import VersionedModelViewSet

urlpatterns = [
    path("models", VersionedModelViewSet.as_view({"get": "list", "post": "create"})),
    path(
        "models/<path:ref>",
        VersionedModelViewSet.as_view(
            {"get": "retrieve", "put": "update", "patch": "partial_update", "delete": "destroy"}
        ),
    ),
]
