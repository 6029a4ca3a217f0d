"""REST routes that exist only below /api/v1."""

from django.urls import path

from monitoring import views

urlpatterns = [
    path("health", views.ComponentsView.as_view()),
    path("health/details", views.ComponentDetailsView.as_view()),
]
