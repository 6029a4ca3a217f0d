"""Training routes of the engine API, below /api/v1 only."""

from django.urls import path

from training.jobs import versioned

urlpatterns = [
    path("training/start", versioned.StartTrainingView.as_view()),
    path("training/status/<str:pk>", versioned.JobStatusView.as_view()),
    path("training/cancel/<str:pk>", versioned.CancelJobView.as_view()),
    path("training/pause/<str:pk>", versioned.PauseJobView.as_view()),
    path("training/resume/<str:pk>", versioned.ResumeJobView.as_view()),
    path("training/list", versioned.ListJobsView.as_view()),
]
