"""API keys: how a secret is made and digested. Only the digest is stored."""

import hashlib
import hmac
import secrets

from django.conf import settings

PREFIX = "sk-serai-"
SHOWN_LENGTH = len(PREFIX) + 4


def new_secret() -> str:
    return PREFIX + secrets.token_urlsafe(32)


def digest(secret: str) -> bytes:
    """HMAC-SHA256 with the pepper: the table alone is not enough to test guesses."""
    return hmac.digest(settings.KEY_PEPPER, secret.encode("utf-8", "surrogateescape"), hashlib.sha256)


def shown_prefix(secret: str) -> str:
    return secret[:SHOWN_LENGTH]
