"""The files that agent and shim exchange: what to run (`spec.json`) and the state of that run (`state.json`)."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class ShimSpec:
    """`env` is complete: nothing is inherited. Sizes are bytes, times seconds."""

    cluster: str
    data_folder: str
    instance: str
    generation: int
    argv: list[str]
    env: dict[str, str]
    cwd: str
    drop_privileges: bool = False
    log_bytes: int = 10 * 2**20  # per file
    log_files: int = 3
    supervisor: dict[str, int] | None = None  # {"pid", "start"}: end with this process
    lease_seconds: float | None = None  # end when the file `lease` was not touched for this long
    stop_grace: float = 30.0

    def __post_init__(self) -> None:
        if not self.argv:
            raise ValueError("argv is empty")

    def markers(self) -> dict[str, str]:
        """Variables by which a scan of /proc finds every process of the tree."""
        return {
            "SERAI_CLUSTER": self.cluster,
            "SERAI_DATA_FOLDER": self.data_folder,
            "SERAI_INSTANCE": self.instance,
            "SERAI_GENERATION": str(self.generation),
            # vLLM's EngineCore sets its title with setproctitle, which would wipe /proc/<pid>/environ
            "SPT_NOENV": "1",
        }


@dataclass
class ShimState:
    """`shim_start` and `start` are clock ticks since boot; `started_at` and `ended_at` epoch seconds."""

    cluster: str = ""
    data_folder: str = ""
    instance: str = ""
    generation: int = 0
    shim_pid: int = 0
    shim_start: int = 0
    pid: int | None = None
    start: int | None = None
    phase: str = "running"  # running, stopping, exited
    exit_code: int | None = None
    signal: int | None = None
    started_at: float | None = None
    ended_at: float | None = None
    reason: str | None = None  # exit, stop, lease, supervisor, error
    error: str | None = None
    killed: bool = False  # at least one process needed SIGKILL
    max_rss_bytes: int = 0
    log_dropped: int = 0  # lines lost to a full disk


def write_atomically(path: str | os.PathLike[str], content: Mapping[str, object]) -> None:
    """Readers see the old file or the new one. Only this account can read it."""
    temporary = f"{os.fspath(path)}.tmp"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(fd, "w", encoding="utf-8") as file:
        json.dump(content, file)
    os.replace(temporary, path)
