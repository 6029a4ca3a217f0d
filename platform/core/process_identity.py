"""Which process exactly: a pid is given again and again, a pid with its start time never is."""

import os
import sys
from pathlib import Path

import psutil

BOOT_ID, NAMESPACE = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
DEAD_STATES = "ZX"  # a zombie is one too


def boot_id() -> str:
    """A value that changes with each boot of this machine; empty where there is none."""
    return BOOT_ID.read_text().strip() if BOOT_ID.exists() else ""


def start_time(pid: int) -> int | None:
    """Clock ticks since boot on Linux, hundredths of a second elsewhere; None if there is no such process."""
    found = _read(pid)
    return found[1] if found else None


def is_alive(pid: int, start: int) -> bool:
    """Whether exactly this process runs. A zombie does not, nor does another process with a recycled pid."""
    found = _read(pid)
    return found is not None and found[0] not in DEAD_STATES and found[1] == start


def identity() -> str:
    """Names this process so that others can find out whether it has ended; empty where that is impossible."""
    start = start_time(os.getpid())
    return "" if start is None or not boot_id() else f"{_pid_space()} {os.getpid()} {start}"


def has_ended(process_name: str) -> bool:
    """Whether the process with this `identity()` is known to have ended; never known for another machine's."""
    space, *process = process_name.rsplit(" ", 2)
    return len(process) == 2 and space == _pid_space() and not is_alive(int(process[0]), int(process[1]))


def _pid_space() -> str:
    """Where pids mean the same: one boot of one machine, one namespace of pids."""
    return f"{boot_id()} {os.readlink(NAMESPACE)}"


def _read(pid: int) -> tuple[str, int] | None:
    """State letter and start time: fields 3 and 22 of /proc/<pid>/stat."""
    try:
        if sys.platform == "linux":
            fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
            return fields[0], int(fields[19])
        process = psutil.Process(pid)
        dead = process.status() == psutil.STATUS_ZOMBIE
        return "Z" if dead else "R", int(process.create_time() * 100)
    except (OSError, psutil.Error):
        return None
