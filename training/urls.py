"""REST routes of training, below /api/; those of OpenAI's clients are in openai/urls.py."""

from django.urls import path

from training.datasets.views import DatasetViewSet
from training.jobs.views import JobLogStreamView, JobLogsView, TrainingJobViewSet

urlpatterns = [
    path("datasets", DatasetViewSet.as_view({"get": "list", "post": "create"})),
    path("datasets/<pk>", DatasetViewSet.as_view({"get": "retrieve", "delete": "destroy"})),
    path("datasets/<pk>/preview", DatasetViewSet.as_view({"get": "preview"})),
    path("datasets/<pk>/tokens", DatasetViewSet.as_view({"get": "tokens"})),
    path("training/jobs", TrainingJobViewSet.as_view({"get": "list", "post": "create"})),
    path("training/jobs/<pk>", TrainingJobViewSet.as_view({"get": "retrieve", "delete": "destroy"})),
    *(
        path(f"training/jobs/<pk>/{verb}", TrainingJobViewSet.as_view({"post": verb}))
        for verb in ("pause", "resume", "cancel")
    ),
    path("training/jobs/<pk>/progress", TrainingJobViewSet.as_view({"get": "progress"})),
    path("training/jobs/<str:pk>/logs", JobLogsView.as_view()),
    path("training/jobs/<str:pk>/logs/stream", JobLogStreamView.as_view()),
]
