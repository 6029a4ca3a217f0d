"""API keys: how a secret is made and digested. Only the digest is kept."""

import hashlib
import hmac
import secrets

from django.conf import settings

PREFIX = "sk-serai-"
SHOWN = len(PREFIX) + 4


def new_secret() -> str:
    return PREFIX + secrets.token_urlsafe(32)


def digest(secret: str) -> bytes:
    """HMAC-SHA256 under the pepper: the table alone lets nobody test guesses."""
    return hmac.digest(settings.KEY_PEPPER, secret.encode("utf-8", "surrogateescape"), hashlib.sha256)


def shown_prefix(secret: str) -> str:
    return secret[:SHOWN]
