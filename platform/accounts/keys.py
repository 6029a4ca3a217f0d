"""API keys: how a secret is made and digested. Only the digest is stored."""

import hmac
import secrets

from django.conf import settings

PREFIX = "sk-serai-"
SHOWN_LENGTH = len(PREFIX) + 4


def new_secret() -> str:
    return PREFIX + secrets.token_urlsafe(32)


def is_key(credential: str) -> bool:
    """Whether it has the form of a key; all other credentials are tokens."""
    return credential.startswith(PREFIX)


def digest(secret: str, pepper: bytes | None = None) -> bytes:
    """HMAC-SHA256 with the pepper (that of the settings): the table alone is not enough to test guesses."""
    pepper = settings.KEY_PEPPER if pepper is None else pepper
    return hmac.digest(pepper, secret.encode("utf-8", "surrogateescape"), "sha256")


def shown_prefix(secret: str) -> str:
    return secret[:SHOWN_LENGTH]
