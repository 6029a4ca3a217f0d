"""REST routes of the catalogue, below /api/. Routes on one model end here: a name may hold slashes."""

from django.urls import path

from models_app.views import ModelViewSet

urlpatterns = [
    path("models", ModelViewSet.as_view({"get": "list", "post": "create"})),
    path(
        "models/<path:ref>",
        ModelViewSet.as_view({"get": "retrieve", "put": "update", "patch": "partial_update", "delete": "destroy"}),
    ),
]
