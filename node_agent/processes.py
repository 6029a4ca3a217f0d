"""Finds our processes on this machine by the markers that shims set in their environment.

Linux only: elsewhere there is no /proc, so nothing is found and nothing is killed.
"""

import signal
import time
from dataclasses import dataclass, field

from node_agent.shim.proc import kill_groups, list_pids, read_process, send_signal

MAX_KILL_ROUNDS = 100
KILL_INTERVAL = 0.02


@dataclass(frozen=True)
class MarkedProcess:
    """`start` is in clock ticks since boot; with the pid it identifies one process."""

    pid: int
    start: int
    group: int = field(compare=False)
    instance: str
    generation: int


def memory_bytes(pid: int) -> int:
    """Bytes of main memory, shared pages counted in proportion; 0 if there is no such process."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
            shares = [int(line.split()[1]) for line in file if line.startswith("Pss:")]
        return sum(shares) * 1024
    except OSError:  # ended, or not readable for this account
        process = read_process(pid)
        return process.rss_bytes if process else 0


def find_marked(cluster: str, data_folder: str) -> list[MarkedProcess]:
    """Every live process, shims included, with the markers of this cluster and data folder."""
    found = (_read_marked_process(pid, cluster, data_folder) for pid in list_pids())
    return [process for process in found if process]


def kill_marked(cluster: str, data_folder: str, instance: str, generation: int | None = None) -> list[MarkedProcess]:
    """SIGKILL the processes with these markers until none is left; without a generation, those of every run.

    Returns the killed processes. Those that have not ended within two seconds are left to a later call.
    """
    killed: dict[MarkedProcess, None] = {}
    for _ in range(MAX_KILL_ROUNDS):
        targets = [
            process
            for process in find_marked(cluster, data_folder)
            if process.instance == instance and generation in (None, process.generation)
        ]
        if not targets:
            break
        kill_groups({process.group for process in targets})
        for process in targets:
            send_signal(process.pid, process.start, signal.SIGKILL)
            killed[process] = None
        time.sleep(KILL_INTERVAL)
    return list(killed)


def _read_marked_process(pid: int, cluster: str, data_folder: str) -> MarkedProcess | None:
    process = read_process(pid)  # before the markers: a pid recycled in between has another start time, and is spared
    markers = _read_markers(pid)
    ours = (markers.get("SERAI_CLUSTER"), markers.get("SERAI_DATA_FOLDER")) == (cluster, data_folder)
    instance, generation = markers.get("SERAI_INSTANCE"), markers.get("SERAI_GENERATION", "")
    if process is None or not ours or not instance or not generation.isdigit():
        return None
    return MarkedProcess(pid, process.start, process.group, instance, int(generation))


def _read_markers(pid: int) -> dict[str, str]:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            entries = file.read().decode(errors="surrogateescape").split("\0")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return {}
    return dict(entry.split("=", 1) for entry in entries if entry.startswith("SERAI_") and "=" in entry)
