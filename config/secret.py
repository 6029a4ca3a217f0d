"""The installation secret, from which a key is derived for each purpose."""

import hashlib
import hmac
import os
import secrets
from pathlib import Path

MIN_SECRET_LENGTH = 32


class WeakSecret(ValueError):
    """SERAI_SECRET is too short to derive keys from."""


def load(path: Path, given: str | None) -> bytes:
    """The secret from the environment, else from `path`, created on first use (0600). Raises WeakSecret."""
    if given is not None:
        if len(given) < MIN_SECRET_LENGTH:
            raise WeakSecret(f"SERAI_SECRET must have at least {MIN_SECRET_LENGTH} characters.")
        return given.encode()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    _create_once(path)
    return path.read_bytes().strip()


def _create_once(path: Path) -> None:
    """Two processes may start at once: a whole file is linked into place, and the first one wins."""
    if path.exists():
        return
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    os.write(descriptor, secrets.token_hex(32).encode())
    os.close(descriptor)
    try:
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()


def derive(secret: bytes, purpose: str) -> bytes:
    """32 bytes for one purpose; one key reveals nothing about another."""
    return hmac.digest(secret, f"serai/{purpose}".encode(), hashlib.sha256)
