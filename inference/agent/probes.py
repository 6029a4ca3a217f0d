"""Questions to an engine over its socket: is it well, what do its counters say. One at a time per engine."""

import http.client
import logging
import socket
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

logger = logging.getLogger(__name__)

TIMEOUT = 5.0
METRICS_EVERY = 5.0


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float):
        super().__init__("localhost", timeout=timeout)
        self.path = str(path)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def get(path: Path, url: str, timeout: float = TIMEOUT) -> str | None:
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
    """What is known of one engine's health. `failing_since` is of the monotonic clock."""

    healthy: bool | None = None
    failing_since: float | None = None
    metrics: str | None = None
    metrics_at: float = 0.0
    busy: bool = False  # by the engine's own count of requests, as last read
    asked: Future | None = field(default=None, repr=False)

    def metrics_age(self) -> float:
        return time.monotonic() - self.metrics_at

    def unhealthy_for(self) -> float:
        return time.monotonic() - self.failing_since if self.failing_since else 0.0


class Probes:
    """Probes run in threads, so that one hung engine keeps no other from being looked at."""

    def __init__(self, threads: int = 8):
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="probe")
        self._probes: dict[tuple[str, int], Probe] = {}

    def look(
        self, instance_id: str, generation: int, path: Path, health_url: str, *, metrics_every: float = METRICS_EVERY
    ) -> Probe:
        """The latest answer, and another question on its way."""
        probe = self._probes.setdefault((instance_id, generation), Probe())
        if probe.asked is None or probe.asked.done():
            probe.asked = self._pool.submit(self._ask, probe, path, health_url, metrics_every)
        return probe

    def forget(self, instance_id: str) -> None:
        for key in [key for key in self._probes if key[0] == instance_id]:
            del self._probes[key]

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _ask(self, probe: Probe, path: Path, health_url: str, metrics_every: float) -> None:
        probe.healthy = get(path, health_url) is not None
        probe.failing_since = None if probe.healthy else probe.failing_since or time.monotonic()
        if probe.healthy and probe.metrics_age() > metrics_every:
            probe.metrics, probe.metrics_at = get(path, "/metrics"), time.monotonic()
