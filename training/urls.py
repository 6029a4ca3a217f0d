"""REST routes of training, below /api/; those of OpenAI's clients are in openai/urls.py."""

from django.urls import path

from training.views import DatasetViewSet

urlpatterns = [
    path("datasets", DatasetViewSet.as_view({"get": "list", "post": "create"})),
    path("datasets/<pk>", DatasetViewSet.as_view({"get": "retrieve", "delete": "destroy"})),
    path("datasets/<pk>/preview", DatasetViewSet.as_view({"get": "preview"})),
]
