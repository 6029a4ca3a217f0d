"""REST routes that answer otherwise below /api/v1 than below /api."""

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
