"""The addresses of one-time links, which lead to pages that need no log-in (accounts/link_pages.py)."""

from typing import Any

from django.conf import settings

from accounts.models import Invitation
from accounts.serializers import NewInvitationSerializer


def join_address(token: str) -> str:
    return f"{settings.BASE_URL}/console/join/{token}"


def reset_address(token: str) -> str:
    return f"{settings.BASE_URL}/console/reset/{token}"


def invitation_reply(invitation: Invitation, token: str) -> dict[str, Any]:
    """The only reply with the token."""
    return {**NewInvitationSerializer(invitation).data, "token": token, "link": join_address(token)}
