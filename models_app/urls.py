"""REST routes of the catalogue, below /api/. Routes of one model are last: a name may contain slashes."""

from django.urls import path

from models_app.adapters.views import AdapterViewSet
from models_app.views import ModelViewSet

urlpatterns = [
    path("adapters", AdapterViewSet.as_view({"get": "list"})),
    path("adapters/<ref>", AdapterViewSet.as_view({"get": "retrieve", "delete": "destroy"})),
    path("adapters/<ref>/versions", AdapterViewSet.as_view({"get": "versions"})),
    path("adapters/<ref>/publish", AdapterViewSet.as_view({"post": "publish"})),
    path("adapters/<ref>/unpublish", AdapterViewSet.as_view({"post": "unpublish"})),
    path("adapters/<ref>/rollback", AdapterViewSet.as_view({"post": "rollback"})),
    path("adapters/<ref>/download", AdapterViewSet.as_view({"get": "download"})),
    path("models", ModelViewSet.as_view({"get": "list", "post": "create"})),
    path(
        "models/<path:ref>",
        ModelViewSet.as_view({"get": "retrieve", "put": "update", "patch": "partial_update", "delete": "destroy"}),
    ),
]
