"""Folders of this node's process trees: one 0700 folder each, with a path short enough for a Unix socket."""

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from django.conf import settings

SOCKET_PATH_LIMIT = 100  # the kernel's limit is 107 bytes
SOCKET = "engine.sock"
NAME_LENGTH = len(f"0123456789ab/{SOCKET}") + 1


def runtime_dir() -> Path:
    """DATA_DIR/run, or this account's folder in the temporary folder if that path is too long.

    Raises PermissionError if the folder belongs to another account.
    """
    folder = settings.DATA_DIR / "run"
    if len(os.fsencode(folder)) + NAME_LENGTH > SOCKET_PATH_LIMIT:
        name = hashlib.sha256(os.fsencode(settings.DATA_DIR)).hexdigest()[:12]
        folder = Path(tempfile.gettempdir()) / f"serai-{os.geteuid()}-{name}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid != os.geteuid():
        raise PermissionError(f"{folder} belongs to another account.")
    return folder


def folder_of(instance_id: str) -> Path:
    return runtime_dir() / hashlib.sha256(instance_id.encode()).hexdigest()[:12]


def socket_of(instance_id: str) -> Path:
    return folder_of(instance_id) / SOCKET


def remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
