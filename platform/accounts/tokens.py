"""Access and refresh tokens of one login session. Both are valid only while it is; a refresh token only once."""

import uuid
from dataclasses import dataclass
from datetime import timedelta

from django.conf import settings
from django.db import transaction
from django.utils import timezone
from rest_framework_simplejwt.exceptions import TokenError
from rest_framework_simplejwt.tokens import AccessToken, RefreshToken, Token

from accounts.models import LoginSession, User
from core.errors import Unauthenticated

SESSION_CLAIM = "sid"
REFRESH_LIFETIME = timedelta(seconds=settings.REFRESH_TOKEN_SECONDS)


@dataclass(frozen=True)
class Claims:
    """The claims of a valid access token. The database or the snapshot shows whether its session is valid."""

    user_id: str
    session_id: str
    expires_at: float


def verify(token: str) -> Claims:
    """Signature, algorithm, type, audience, issuer and expiry; no database. Raises Unauthenticated."""
    claims = _verify_claims(AccessToken, token)
    return Claims(claims["user_id"], claims[SESSION_CLAIM], claims["exp"])


def open_session(user: User) -> dict:
    """A new login session, as the reply of POST /api/auth/token."""
    session_id = uuid.uuid4()
    refresh = RefreshToken.for_user(user)
    LoginSession.objects.create(
        id=session_id, user=user, refresh_jti=refresh["jti"], expires_at=timezone.now() + REFRESH_LIFETIME
    )
    return _reply(refresh, str(session_id))


def refresh_session(token: str) -> dict:
    """New tokens for a refresh token. One that is used twice counts as stolen: the session ends."""
    claims = _verify_claims(RefreshToken, token)
    replayed = False
    with transaction.atomic():
        session = (
            LoginSession.objects.select_for_update().select_related("user").filter(pk=claims[SESSION_CLAIM]).first()
        )
        if session is None or not _is_valid(session):
            raise Unauthenticated
        replayed = session.refresh_jti != claims["jti"]
        if replayed:
            session.revoked_at = timezone.now()
        refresh = RefreshToken.for_user(session.user)
        session.refresh_jti = refresh["jti"]
        session.save(update_fields=["refresh_jti", "revoked_at"])
    if replayed:
        raise Unauthenticated
    return _reply(refresh, str(session.pk))


def revoke_session(token: str) -> None:
    """End the login session of an access or refresh token. Raises Unauthenticated."""
    for token_class in (AccessToken, RefreshToken):
        try:
            claims = _verify_claims(token_class, token)
        except Unauthenticated:
            continue
        LoginSession.objects.filter(pk=claims[SESSION_CLAIM], revoked_at=None).update(revoked_at=timezone.now())
        return
    raise Unauthenticated


def user_of_token(token: str) -> User:
    """The active user of a valid access token whose login session is still valid. Raises Unauthenticated."""
    claims = verify(token)
    user = user_of_session(claims.session_id)
    if user.pk != claims.user_id:
        raise Unauthenticated
    return user


def user_of_session(session_id: str) -> User:
    """The active user of a login session that is still valid. Raises Unauthenticated."""
    session = LoginSession.objects.select_related("user__default_tenant").filter(pk=session_id).first()
    if session is None or not _is_valid(session):
        raise Unauthenticated
    return session.user


def _is_valid(session: LoginSession) -> bool:
    return session.revoked_at is None and session.expires_at > timezone.now() and session.user.is_active


def _reply(refresh: RefreshToken, session_id: str) -> dict:
    refresh[SESSION_CLAIM] = session_id
    access = refresh.access_token
    return {
        "access_token": str(access),
        "token_type": "bearer",
        "expires_in": settings.ACCESS_TOKEN_SECONDS,
        "refresh_token": str(refresh),
    }


def _verify_claims(token_class: type[Token], token: str) -> Token:
    """A verified token with all claims that our tokens have. Raises Unauthenticated."""
    try:
        claims = token_class(token)  # type: ignore[arg-type]  # the library takes a text and says Token
        uuid.UUID(claims[SESSION_CLAIM])
        claims["user_id"]
    except (TokenError, KeyError, ValueError):
        raise Unauthenticated from None
    return claims
