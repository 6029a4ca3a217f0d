"""Every HTTP route of Django; the data plane's are in gateway/asgi.py, sockets in config/asgi.py."""

from django.contrib import admin
from django.urls import include, path
from drf_spectacular.views import SpectacularJSONAPIView, SpectacularRedocView, SpectacularSwaggerView

from accounts.link_pages import join_by_link, reset_by_link
from accounts.views import login_by_link
from config.errors import bad_request, not_found, server_error
from monitoring import views as monitoring

running = [path("", include(f"{app}.urls")) for app in ("accounts", "inference", "training", "monitoring")]
catalogue = [path("", include("models_app.urls"))]  # last: a model's name may contain slashes
api = [*running, *catalogue]
v1_overrides = [path("", include(f"{app}.urls_v1")) for app in ("training", "monitoring")]
v1 = [*v1_overrides, *running, path("", include("inference.urls_v1")), *catalogue]

urlpatterns = [
    path("", monitoring.RootView.as_view()),
    path("health", monitoring.HealthView.as_view()),
    path("check_health", monitoring.CheckHealthView.as_view()),
    path("metrics", monitoring.PrometheusView.as_view()),
    path("openapi.json", SpectacularJSONAPIView.as_view(), name="schema"),
    path("docs", SpectacularSwaggerView.as_view(url_name="schema")),
    path("redoc", SpectacularRedocView.as_view(url_name="schema", template_name="redoc.html")),
    path("api/", include(api)),
    path("api/v1/", include(v1)),  # the same, with the views of the engine API
    path("v1/", include("training.openai.urls")),  # the rest of /v1/ is the data plane's
    path("console/enter/<str:token>", login_by_link),
    path("console/join/<str:token>", join_by_link),
    path("console/reset/<str:token>", reset_by_link),
    path("console/", admin.site.urls),
]
handler400, handler404, handler500 = bad_request, not_found, server_error
