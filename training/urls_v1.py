"""Training routes of the engine API, below /api/v1 only."""

from django.urls import path

from training.jobs import versioned

urlpatterns = [
    path("training/start", versioned.StartView.as_view()),
    path("training/status/<str:pk>", versioned.StatusView.as_view()),
    path("training/cancel/<str:pk>", versioned.CancelView.as_view()),
    path("training/pause/<str:pk>", versioned.PauseView.as_view()),
    path("training/resume/<str:pk>", versioned.ResumeView.as_view()),
    path("training/list", versioned.ListView.as_view()),
]
