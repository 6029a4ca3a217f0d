"""The data folder and its private folder."""

import errno
import os
import secrets
import shutil
from pathlib import Path

from launcher.start_errors import CannotStart

ROOT = Path(__file__).resolve().parents[2]
MEGABYTE = 1024**2
MINIMUM_FREE = 200 * MEGABYTE


def data_folder() -> Path:
    return Path(os.environ.get("SERAI_DATA") or ROOT / ".data").resolve()


def prepare(data: Path) -> None:
    """Create the folders. Raises CannotStart if they cannot be written or the disk is nearly full."""
    try:
        for folder in (data, data / "private"):
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o700)
        write(data / "private" / "probe", "can be written")
        (data / "private" / "probe").unlink()
        free = shutil.disk_usage(data).free
    except OSError as error:
        raise CannotStart(explain(error, data)) from error
    if free < MINIMUM_FREE:
        raise CannotStart(
            f"Only {free // MEGABYTE} MB are free on the disk of {data} and {MINIMUM_FREE // MEGABYTE} MB "
            "are needed. Free some space, or set SERAI_DATA to a folder on another disk."
        )


def write(path: Path, text: str) -> None:
    """Write the whole file or nothing; only its owner may read it."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    draft.replace(path)


def password(data: Path, name: str) -> str:
    """The password of one embedded server, created on first use."""
    path = data / "private" / f"{name}.password"
    path.parent.mkdir(mode=0o700, exist_ok=True)
    if not path.exists():
        write(path, secrets.token_urlsafe(24))
    return path.read_text()


def explain(error: OSError, folder: Path) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"The disk of {folder} is full. Free some space, or set SERAI_DATA to another disk."
    path = error.filename or folder
    return f"{path} cannot be used ({error.strerror}). Set SERAI_DATA to a folder that you may write to."
