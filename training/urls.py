"""REST routes of training, below /api/. Bodies of `UPLOADS` reach their view as they come."""

from django.urls import path

from training.views import DatasetViewSet

UPLOADS = ("/api/datasets", "/api/v1/datasets")

urlpatterns = [
    path("datasets", DatasetViewSet.as_view({"get": "list", "post": "create"})),
    path("datasets/<pk>", DatasetViewSet.as_view({"get": "retrieve", "delete": "destroy"})),
    path("datasets/<pk>/preview", DatasetViewSet.as_view({"get": "preview"})),
]
