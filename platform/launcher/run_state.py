"""The state file of a running `up`: its pid, the URLs of its servers, the session id of its processes."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from core import process_identity
from launcher import data_folder
from launcher.start_errors import CannotStart

SERVER_VARIABLES = ("DATABASE_URL", "REDIS_URL")


@contextmanager
def hold_lock(data: Path) -> Iterator[None]:
    """Lock the data folder. The kernel releases the lock when this process ends, so a crash leaves no stale one."""
    with (data / "private" / "up.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CannotStart(_already_running(data)) from None
        yield


def save(data: Path, state: dict[str, Any]) -> None:
    data_folder.write(_path(data), json.dumps(state))


def load(data: Path) -> dict[str, Any]:
    """The state that the last `up` wrote; empty if there was none."""
    try:
        return json.loads(_path(data).read_text())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}


def delete(data: Path) -> None:
    _path(data).unlink(missing_ok=True)


def use_running_servers(data: Path) -> None:
    """Let a command in another terminal use the embedded servers of the running `up`."""
    state = load(data)
    if state and process_identity.is_alive(state["pid"], state["start"]):
        for name in SERVER_VARIABLES:
            if name in state["servers"] and f"{name}_FILE" not in os.environ:
                os.environ.setdefault(name, state["servers"][name])


def _path(data: Path) -> Path:
    return data / "private" / "up.json"


def _already_running(data: Path) -> str:
    state = load(data)
    owner = f" (process {state['pid']}, {state['base_url']})" if state else ""
    return f"Serai already runs on {data}{owner}. Stop it first, or set SERAI_DATA to another folder."
