"""Chooses the user of the embedded servers: Postgres refuses to run as root or as a uid without an account."""

import os
import pwd
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launcher.start_errors import CannotStart

ACCOUNTS = ("postgres", "nobody")
NOT_ROOT = 65534


@dataclass(frozen=True)
class Identity:
    """How to start a server (`prefix` of the command, `options` of Popen) and which user owns its files."""

    prefix: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    uid: int = field(default_factory=os.geteuid)
    gid: int = field(default_factory=os.getegid)

    def take_ownership(self, folder: Path) -> None:
        """Make this identity the owner of `folder` and its content; only root can, and only root needs to."""
        if os.geteuid() != 0 or folder.stat().st_uid == self.uid:
            return
        for parent, folders, files in os.walk(folder):
            for name in [*folders, *files]:
                os.chown(Path(parent, name), self.uid, self.gid, follow_symlinks=False)
        os.chown(folder, self.uid, self.gid)


def choose(binary: Path, data: Path) -> Identity:
    """The current user if Postgres accepts it; else a user namespace; else, for root, an unprivileged account."""
    if os.geteuid() != 0 and _has_account(os.geteuid()):
        return Identity()
    identity = _in_user_namespace()
    if identity is None:
        identity = _unprivileged(binary, data) if os.geteuid() == 0 else Identity()
    return identity


def _has_account(uid: int) -> bool:
    """Containers often run under a uid without an account."""
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def _in_user_namespace() -> Identity | None:
    """Inside the namespace the uid is not 0; outside, the files keep our uid. Containers often forbid it."""
    unshare = shutil.which("unshare")
    if unshare is None:
        return None
    prefix = (unshare, "--user", f"--map-user={NOT_ROOT}", f"--map-group={NOT_ROOT}", "--")
    allowed = subprocess.run([*prefix, "true"], capture_output=True).returncode == 0
    return Identity(prefix) if allowed else None


def _unprivileged(binary: Path, data: Path) -> Identity:
    account = _find_account()
    data.chmod(0o711)  # the account must reach its own folder in it; secrets are in `private`, 0700
    options = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    if not (_reachable(binary) and _reachable(data)):
        raise CannotStart(
            f"Postgres does not run as root, and the account {account.pw_name} cannot reach {binary.parent} "
            f"and {data}. Start as an ordinary user, move the checkout out of /root, or set DATABASE_URL."
        )
    return Identity((), options, account.pw_uid, account.pw_gid)


def _find_account() -> pwd.struct_passwd:
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    for name in ACCOUNTS:
        if name in known:
            return known[name]
    raise CannotStart("Postgres does not run as root. Start as an ordinary user, or set DATABASE_URL.")


def _reachable(path: Path) -> bool:
    return all(folder.stat().st_mode & 0o001 for folder in path.resolve().parents)
