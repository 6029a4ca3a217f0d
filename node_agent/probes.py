"""Polls engines over their sockets: their health and their metrics. One request at a time per engine."""

import http.client
import math
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from node_agent import shims
from node_agent.folders import SOCKET

PROBE_TIMEOUT = 5.0
METRICS_INTERVAL = 5.0
STARTING_INTERVAL = 0.05  # nothing listens yet: refused at once, which costs one system call
DRAINING_INTERVAL = 0.2
FAILURE_INTERVAL = 5.0  # an engine that failed a probe is polled again sooner


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float):
        super().__init__("localhost", timeout=timeout)
        self.path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def get_page(path: Path, url: str, timeout: float = PROBE_TIMEOUT) -> str | None:
    """The body of a 200 answer; None for everything else, a refused connection included."""
    connection = UnixConnection(path, timeout)
    try:
        connection.request("GET", url)
        response = connection.getresponse()
        body = response.read(8 * 1024 * 1024)
        return body.decode(errors="replace") if response.status == 200 else None
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


@dataclass
class Probe:
    """The latest answers of one run of an engine. Times are of the monotonic clock."""

    healthy: bool | None = None
    failing_since: float | None = None
    metrics: str | None = None  # the last metrics page, until it is consumed
    metrics_at: float = 0.0
    busy: bool = False  # by the engine's own count of requests, from the last consumed page
    ended: bool = False

    def measured_within(self, seconds: float) -> bool:
        """Whether `busy` was measured at most so many seconds ago."""
        return self.metrics is None and time.monotonic() - self.metrics_at <= seconds

    def unhealthy_for(self) -> float:
        return time.monotonic() - self.failing_since if self.failing_since else 0.0


@dataclass(kw_only=True)
class ScheduledProbe(Probe):
    """A probe with its target and its schedule."""

    folder: Path
    health_url: str
    health_interval: float = math.inf
    metrics_interval: float = math.inf
    health_due: float = 0.0
    is_waiting: bool = False

    @property
    def due_at(self) -> float:
        if self.ended or self.is_waiting:
            return math.inf
        return min(self.health_due, self.metrics_due if self.healthy else math.inf)

    @property
    def metrics_due(self) -> float:
        return self.metrics_at + self.metrics_interval

    def set_intervals(self, every: float, metrics_every: float) -> None:
        """Set the intervals. A shorter one also applies to the next request, which is already scheduled."""
        self.health_interval, self.metrics_interval = every, metrics_every
        self.health_due = min(self.health_due, time.monotonic() + every)


class Probes:
    """Polls every engine at its own interval, in threads, so that a hung one does not delay the others.

    `on_change` is called, from a thread, when an engine has become healthy or unhealthy or has ended.
    """

    def __init__(self, on_change: Callable[[], None] = lambda: None, threads: int = 8):
        self._on_change = on_change
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="probe")
        self._probes: dict[tuple[str, int], ScheduledProbe] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._clock = threading.Thread(target=self._run_schedule, name="probe-clock", daemon=True)

    def poll_run(
        self, instance_id: str, generation: int, folder: Path, health_url: str, every: float, metrics_every: float
    ) -> Probe:
        """The latest answers of this run. From now on it is polled at these intervals, in seconds."""
        with self._changed:
            if (instance_id, generation) not in self._probes:
                self._drop(instance_id)
                self._probes[instance_id, generation] = ScheduledProbe(folder=folder, health_url=health_url)
            probe = self._probes[instance_id, generation]
            probe.set_intervals(every, metrics_every)
            self._changed.notify()
            if not self._clock.is_alive() and not self._closed:
                self._clock.start()
        return probe

    def forget(self, instance_id: str) -> None:
        with self._changed:
            self._drop(instance_id)

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _drop(self, instance_id: str) -> None:
        for key in [key for key in self._probes if key[0] == instance_id]:
            del self._probes[key]

    def _run_schedule(self) -> None:
        with self._changed:
            while not self._closed:
                now = time.monotonic()
                for probe in self._probes.values():
                    if probe.due_at <= now:
                        probe.is_waiting = True
                        self._pool.submit(self._poll, probe)
                next_at = min((probe.due_at for probe in self._probes.values()), default=math.inf)
                self._changed.wait(None if next_at == math.inf else max(0.0, next_at - now))

    def _poll(self, probe: ScheduledProbe) -> None:
        before = (probe.healthy, probe.ended)
        try:
            if time.monotonic() >= probe.health_due:
                self._poll_health(probe)
            if probe.healthy and time.monotonic() >= probe.metrics_due:
                self._poll_metrics(probe)
        finally:
            with self._changed:
                probe.is_waiting = False
                self._changed.notify()
        if (probe.healthy, probe.ended) != before:
            self._on_change()

    def _poll_health(self, probe: ScheduledProbe) -> None:
        probe.healthy = get_page(probe.folder / SOCKET, probe.health_url) is not None
        state = None if probe.healthy else shims.read(probe.folder)
        probe.ended = state is not None and state.phase == "exited"
        probe.failing_since = None if probe.healthy else probe.failing_since or time.monotonic()
        probe.health_due = time.monotonic() + (
            probe.health_interval if probe.healthy else min(probe.health_interval, FAILURE_INTERVAL)
        )

    def _poll_metrics(self, probe: ScheduledProbe) -> None:
        probe.metrics = get_page(probe.folder / SOCKET, "/metrics")
        probe.metrics_at = time.monotonic()
        if probe.metrics is None:  # it may be unhealthy by now: check at once, not after the interval
            probe.health_due = 0.0
