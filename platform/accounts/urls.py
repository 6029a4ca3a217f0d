"""REST routes of accounts, below /api/."""

from django.urls import path
from rest_framework.routers import SimpleRouter

from accounts import invitation_views, own_account_views, views

router = SimpleRouter(trailing_slash=False)
router.register("tenants", views.TenantViewSet)
router.register("members", views.MemberViewSet)
router.register("keys", views.KeyViewSet)
router.register("invitations", invitation_views.InvitationViewSet)
router.register("me/keys", own_account_views.OwnKeyViewSet, basename="own-key")
router.register("audit", views.AuditViewSet)

urlpatterns = [
    path("auth/token", views.TokenView.as_view()),
    path("auth/token/refresh", views.RefreshView.as_view()),
    path("auth/token/revoke", views.RevokeView.as_view()),
    path("auth/ticket", views.TicketView.as_view()),
    path("me", own_account_views.OwnAccountView.as_view()),
    path("me/password", own_account_views.OwnPasswordView.as_view()),
    path("invitations/accept", invitation_views.AcceptanceView.as_view()),
    path("config", views.ConfigurationView.as_view()),
    path("config/history", views.ConfigurationHistoryView.as_view()),
    *router.urls,
]
