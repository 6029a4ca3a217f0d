"""Routes below /v1/ that Django answers beside the data plane."""

from django.urls import path

from training.openai.files import FileViewSet

urlpatterns = [
    path("files", FileViewSet.as_view({"get": "list", "post": "create"})),
    path("files/<pk>", FileViewSet.as_view({"get": "retrieve", "delete": "destroy"})),
    path("files/<pk>/content", FileViewSet.as_view({"get": "content"})),
]
