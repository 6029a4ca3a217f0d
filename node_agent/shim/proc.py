"""Processes as /proc reports them, and signals that never reach a recycled pid."""

import errno
import os
import signal
from typing import NamedTuple

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class ProcessInfo(NamedTuple):
    pid: int
    parent: int
    group: int
    start: int  # clock ticks since boot
    alive: bool  # a zombie is not
    rss_bytes: int


def read_process(pid: int) -> ProcessInfo | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            stat = file.read()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    fields = stat[stat.rindex(b")") + 2 :].split()  # the process name before it may contain anything
    alive = fields[0] not in b"ZX"
    return ProcessInfo(pid, int(fields[1]), int(fields[2]), int(fields[19]), alive, int(fields[21]) * PAGE_BYTES)


def start_time(pid: int) -> int:
    """Clock ticks since boot. Raises ProcessLookupError."""
    process = read_process(pid)
    if process is None:
        raise ProcessLookupError(errno.ESRCH, f"no process {pid}")
    return process.start


def list_pids() -> list[int]:
    """Newest first, to catch what forks faster than it can be examined."""
    try:
        return sorted((int(name) for name in os.listdir("/proc") if name.isdigit()), reverse=True)
    except FileNotFoundError:  # not Linux
        return []


def descendants(root: int) -> list[ProcessInfo]:
    """Every process below `root`, without `root` itself."""
    children: dict[int, list[ProcessInfo]] = {}
    for process in filter(None, map(read_process, list_pids())):
        children.setdefault(process.parent, []).append(process)
    found = list(children.get(root, []))
    for process in found:  # grows while it is walked
        found.extend(children.get(process.pid, []))
    return found


def send_signal(pid: int, start: int, signum: int) -> bool:
    """Signal exactly this process: the pidfd pins it, the start time proves that the pid was not recycled."""
    pidfd = None
    try:
        pidfd = _open_pidfd(pid)
        process = read_process(pid)
        if process is None or process.start != start:
            return False
        os.kill(pid, signum) if pidfd is None else signal.pidfd_send_signal(pidfd, signum)
    except (ProcessLookupError, PermissionError):
        return False
    finally:
        if pidfd is not None:
            os.close(pidfd)
    return True


def kill_groups(groups: set[int]) -> bool:
    """SIGKILL each group in one step, so that no fork escapes; never our own group."""
    killed = False
    for group in groups - {os.getpgrp()}:
        try:
            os.killpg(group, signal.SIGKILL)
            killed = True
        except (ProcessLookupError, PermissionError):
            pass
    return killed


def _open_pidfd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        if error.errno == errno.ENOSYS:  # a kernel before 5.3
            return None
        raise
