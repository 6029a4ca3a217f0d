"""REST routes of accounts, below /api/."""

from django.urls import path
from rest_framework.routers import SimpleRouter

from accounts import views

router = SimpleRouter(trailing_slash=False)
router.register("tenants", views.TenantViewSet)
router.register("members", views.MemberViewSet)
router.register("keys", views.KeyViewSet)
router.register("audit", views.AuditViewSet)

urlpatterns = [
    path("auth/token", views.TokenView.as_view()),
    path("auth/token/refresh", views.RefreshView.as_view()),
    path("auth/token/revoke", views.RevokeView.as_view()),
    path("auth/ticket", views.TicketView.as_view()),
    path("config", views.ConfigurationView.as_view()),
    path("config/history", views.ConfigurationHistoryView.as_view()),
    *router.urls,
]
