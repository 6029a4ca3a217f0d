"""Find and end the processes of one `up`, including all descendants, and no others."""

import time
from collections.abc import Callable, Iterable

import psutil

from core import process_identity

SESSION_VARIABLE = "SERAI_SESSION"  # a random id that every process of one `up` inherits
GRACE_TIMEOUT = 8.0


def start_time(pid: int) -> int:
    """With the pid it names one process for good. Raises ProcessLookupError if there is none."""
    found = process_identity.start_time(pid)
    if found is None:
        raise ProcessLookupError(pid)
    return found


def find_session(session: str, spared: Iterable[int] = ()) -> list[psutil.Process]:
    """Every process with the session id in its environment, without the `spared` ones and their descendants."""
    skipped = {pid for root in spared for pid in _tree(root)}
    return [process for process in psutil.process_iter() if process.pid not in skipped and _carries(process, session)]


def end_session(
    session: str, *, exit_timeout: float = 0, grace: float = GRACE_TIMEOUT, spared: Iterable[int] = ()
) -> list[str]:
    """Wait `exit_timeout` seconds for the session to end, then send SIGTERM, and after `grace` seconds SIGKILL.

    Only the root of each process tree gets SIGTERM, because it stops its own children. Returns the roots' names.
    """
    if _wait_until_none(lambda: find_session(session, spared), exit_timeout):
        return []
    found = find_session(session, spared)
    pids = {process.pid for process in found}
    roots = [process for process in found if _parent(process) not in pids]
    names = [_describe(process) for process in roots]
    for process in roots:
        _send_signal(process.terminate)
    if not _wait_until_none(lambda: find_session(session, spared), grace):
        for process in find_session(session, spared):
            _send_signal(process.kill)
    return names


def _wait_until_none(find: Callable[[], list[psutil.Process]], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while find():
        if time.monotonic() >= end:
            return False
        time.sleep(0.1)
    return True


def _carries(process: psutil.Process, session: str) -> bool:
    try:
        return process.environ().get(SESSION_VARIABLE) == session
    except (psutil.Error, OSError):
        return False


def _tree(pid: int) -> list[int]:
    try:
        return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    except psutil.Error:
        return []


def _parent(process: psutil.Process) -> int:
    try:
        return process.ppid()
    except psutil.Error:
        return 0


def _describe(process: psutil.Process) -> str:
    try:
        return f"{process.name()} ({process.pid})"
    except psutil.Error:
        return str(process.pid)


def _send_signal(send: Callable[[], None]) -> None:
    try:
        send()
    except psutil.Error:
        return
