"""REST routes of running models, below /api/. They come before the catalogue's, as model names may contain slashes."""

from django.urls import path
from rest_framework.routers import SimpleRouter

from inference import views
from inference.crashes.views import CrashesView
from inference.logs import views as logs

router = SimpleRouter(trailing_slash=False)
router.register("tasks", views.TaskViewSet)

urlpatterns = [
    path("models/all-models/info", views.AllInfoView.as_view()),
    path("models/restart-autostart", views.RestartAutostartView.as_view()),
    path("models/stop-all", views.StopAllView.as_view()),
    path("models/<path:ref>/info", views.InfoView.as_view()),
    path("models/<path:ref>/estimate", views.EstimateView.as_view()),
    path("models/<path:ref>/explain", views.ExplainView.as_view()),
    path("models/<path:ref>/start", views.StartModelView.as_view()),
    path("models/<path:ref>/stop", views.StopModelView.as_view()),
    path("models/<path:ref>/restart", views.RestartModelView.as_view()),
    path("devices/info", views.DevicesView.as_view()),
    path("models/<path:ref>/crashes", CrashesView.as_view()),
    path("models/<path:ref>/logs", logs.LogsView.as_view()),
    path("models/<path:ref>/logs/stream", logs.LogStreamView.as_view()),
    path("logs/stats", logs.LogStatsView.as_view()),
    path("logs/<path:ref>/clear", logs.ClearLogsView.as_view()),
    path("usage", views.UsageView.as_view()),
    *router.urls,
]
