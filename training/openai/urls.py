"""Routes below /v1/ that Django serves; the gateway serves the others."""

from django.urls import path

from training.openai.files import FileViewSet
from training.openai.jobs import JobViewSet

JOBS = "fine_tuning/jobs"

urlpatterns = [
    path("files", FileViewSet.as_view({"get": "list", "post": "create"})),
    path("files/<pk>", FileViewSet.as_view({"get": "retrieve", "delete": "destroy"})),
    path("files/<pk>/content", FileViewSet.as_view({"get": "content"})),
    path(JOBS, JobViewSet.as_view({"get": "list", "post": "create"})),
    path(f"{JOBS}/<pk>", JobViewSet.as_view({"get": "retrieve"})),
    path(f"{JOBS}/<pk>/cancel", JobViewSet.as_view({"post": "cancel"})),
    path(f"{JOBS}/<pk>/pause", JobViewSet.as_view({"post": "pause"})),
    path(f"{JOBS}/<pk>/resume", JobViewSet.as_view({"post": "resume"})),
    path(f"{JOBS}/<pk>/events", JobViewSet.as_view({"get": "events"})),
    path(f"{JOBS}/<pk>/checkpoints", JobViewSet.as_view({"get": "checkpoints"})),
]
