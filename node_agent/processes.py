"""Which processes of ours exist on this machine, by the marks that shims leave in their environment.

Linux only: elsewhere there is no /proc, nothing is found and nothing is killed.
"""

import signal
import time
from dataclasses import dataclass, field

from node_agent.shim.proc import kill_groups, list_pids, read_process, send_signal

KILL_ROUNDS = 100
ROUND_S = 0.02


@dataclass(frozen=True)
class MarkedProcess:
    """`start` is in clock ticks since boot; with the pid it names one process for ever."""

    pid: int
    start: int
    group: int = field(compare=False)
    instance: str
    generation: int


def memory_of(pid: int) -> int:
    """Bytes of main memory, a page that several processes share in parts; 0 where there is no such process."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
            shares = [int(line.split()[1]) for line in file if line.startswith("Pss:")]
        return sum(shares) * 1024
    except OSError:  # ended, or not ours to look into
        process = read_process(pid)
        return process.rss_bytes if process else 0


def scan(cluster: str, data_folder: str) -> list[MarkedProcess]:
    """Every live process, shims too, that carries exactly this cluster and data folder."""
    found = (_read_marks(pid, cluster, data_folder) for pid in list_pids())
    return [process for process in found if process]


def kill_marked(cluster: str, data_folder: str, instance: str, generation: int | None = None) -> list[MarkedProcess]:
    """SIGKILL what carries exactly these marks, until nothing does; without a generation, all of them.

    Returns what was killed. What cannot die within two seconds is left to a later call.
    """
    killed: dict[MarkedProcess, None] = {}
    for _ in range(KILL_ROUNDS):
        targets = [
            process
            for process in scan(cluster, data_folder)
            if process.instance == instance and generation in (None, process.generation)
        ]
        if not targets:
            break
        kill_groups({process.group for process in targets})
        for process in targets:
            send_signal(process.pid, process.start, signal.SIGKILL)
            killed[process] = None
        time.sleep(ROUND_S)
    return list(killed)


def _read_marks(pid: int, cluster: str, data_folder: str) -> MarkedProcess | None:
    process = read_process(pid)  # before the marks: with another process's start time no signal is sent
    marks = _environment(pid)
    ours = (marks.get("SERAI_CLUSTER"), marks.get("SERAI_DATA_FOLDER")) == (cluster, data_folder)
    instance, generation = marks.get("SERAI_INSTANCE"), marks.get("SERAI_GENERATION", "")
    if process is None or not ours or not instance or not generation.isdigit():
        return None
    return MarkedProcess(pid, process.start, process.group, instance, int(generation))


def _environment(pid: int) -> dict[str, str]:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            entries = file.read().decode(errors="surrogateescape").split("\0")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return {}
    return dict(entry.split("=", 1) for entry in entries if entry.startswith("SERAI_") and "=" in entry)
