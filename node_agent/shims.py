"""The agent's interface to shims: launch one, read its state and its engine's log, request its stop."""

import json
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from core import process_identity
from node_agent import shim
from node_agent.shim.proc import send_signal
from node_agent.shim.records import ShimSpec, ShimState, write_atomically

__all__ = [
    "LaunchFailed", "LogLine", "ShimSpec", "ShimState",
    "is_running", "launch", "log_files", "parse_line", "read", "remove_state_files", "renew_lease", "request_stop",
    "stop_requested_at", "tail",
]  # fmt: skip

SHIM = Path(shim.__file__).parent
LAUNCH_TIMEOUT = 5.0
POLL_INTERVAL = 0.01
STALE_FILES = ("state.json", "stop.json", "engine.sock")  # vLLM leaves its socket behind and cannot bind it again
STATE_FIELDS = {field.name for field in fields(ShimState)}


class LaunchFailed(Exception):
    """The shim did not start; the message says why, as far as it is known."""


@dataclass(frozen=True)
class LogLine:
    timestamp: float  # epoch seconds
    text: str


def launch(folder: Path, spec: ShimSpec) -> ShimState:
    """Start a shim that outlives this process; returns once its engine's process exists, at most 5 s later.

    The engine may still fail to start; the state then says so. Raises LaunchFailed, or OSError for the files.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if is_running(read(folder)):
        raise LaunchFailed(f"A shim is already running in {folder}.")
    for name in STALE_FILES:
        (folder / name).unlink(missing_ok=True)
    renew_lease(folder)
    write_atomically(folder / "spec.json", asdict(spec))
    _spawn(folder, spec)
    return _wait_for_state(folder, spec)


def read(folder: Path) -> ShimState | None:
    """None if there is no readable state."""
    try:
        content = json.loads((folder / "state.json").read_bytes())
    except (OSError, ValueError):
        return None
    if not isinstance(content, dict):
        return None
    return ShimState(**{name: value for name, value in content.items() if name in STATE_FIELDS})


def is_running(state: ShimState | None) -> bool:
    """Whether the shim of this state runs and still has a tree. Its engine cannot outlive it for long."""
    if state is None or state.phase == "exited":
        return False
    return process_identity.is_alive(state.shim_pid, state.shim_start)


def request_stop(folder: Path, state: ShimState, grace: float) -> bool:
    """Request the end of the tree, with SIGKILL after `grace` seconds. False if the shim is gone."""
    with suppress(OSError):  # on a full disk the signal alone suffices, with the grace of the spec
        write_atomically(folder / "stop.json", {"grace": grace})
    return send_signal(state.shim_pid, state.shim_start, signal.SIGTERM)


def stop_requested_at(folder: Path) -> float | None:
    """Epoch seconds of the latest stop request to this run."""
    try:
        return (folder / "stop.json").stat().st_mtime
    except OSError:
        return None


def renew_lease(folder: Path) -> None:
    (folder / "lease").touch(mode=0o600)


def remove_state_files(folder: Path) -> None:
    """Remove the state files of a run whose shim and tree are gone; its log stays."""
    for name in STALE_FILES:
        (folder / name).unlink(missing_ok=True)


def tail(folder: Path, lines: int, since: float = 0.0) -> list[LogLine]:
    """The engine's last lines, oldest first, over all rotated files, none before `since` (epoch seconds)."""
    found: list[LogLine] = []
    for path in log_files(folder):
        if len(found) >= lines:
            break
        found = _last_lines(path, lines - len(found)) + found
    return [line for line in found if line.timestamp >= since]


def _spawn(folder: Path, spec: ShimSpec) -> None:
    """The process started here exits at once; the shim is its child, in a session of its own."""
    command = [sys.executable, "-I", "-S", str(SHIM), str(folder)]
    with (folder / "shim.log").open("ab") as log:
        starter = subprocess.Popen(
            command, env=spec.markers(), cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
    try:
        starter.wait(LAUNCH_TIMEOUT)
    except subprocess.TimeoutExpired as error:
        starter.kill()
        starter.wait()
        raise LaunchFailed("The shim did not start in time.") from error


def _wait_for_state(folder: Path, spec: ShimSpec) -> ShimState:
    deadline = time.monotonic() + LAUNCH_TIMEOUT
    while time.monotonic() < deadline:
        state = read(folder)
        if state and state.generation == spec.generation:
            return state
        time.sleep(POLL_INTERVAL)
    raise LaunchFailed(f"The shim wrote no state: {_last_shim_message(folder)}")


def _last_shim_message(folder: Path) -> str:
    with (folder / "shim.log").open(errors="replace") as log:
        return "".join(deque(log, maxlen=1)).strip() or "it said nothing"


def log_files(folder: Path) -> Iterator[Path]:
    """Newest first."""
    yield folder / "engine.log"
    older = (path for path in folder.glob("engine.log.*") if path.suffix[1:].isdigit())
    yield from sorted(older, key=lambda path: int(path.suffix[1:]))


def _last_lines(path: Path, count: int) -> list[LogLine]:
    try:
        with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
            last = deque(file, maxlen=count)
    except FileNotFoundError:  # not yet written, or just rotated away
        return []
    return [line for line in map(parse_line, last) if line]


def parse_line(line: str) -> LogLine | None:
    timestamp, _, text = line.rstrip("\n").partition(" ")
    try:
        return LogLine(float(timestamp), text)
    except ValueError:
        return None
