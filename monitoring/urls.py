"""REST routes of system status and metrics, below /api/."""

from django.urls import path

from monitoring import views

urlpatterns = [
    path("system/status", views.SystemStatusView.as_view()),
    path("system/gpu", views.SystemGpuView.as_view()),
    path("monitoring/metrics", views.MetricsView.as_view()),
    path("monitoring/performance", views.PerformanceView.as_view()),
]
