"""What this process has in flight per instance, how long one has had nothing to do, and which runs have failed it."""

import time
from collections.abc import Collection, Iterable

DOUBT_SECONDS = 10.0  # by then its agent has seen that it died; what is ready still is no longer doubted


class Traffic:
    """Requests in flight per instance, when the last one ended, and runs (instance id, generation) to be avoided."""

    def __init__(self):
        self.inflight: dict[str, int] = {}
        self._ended: dict[str, float] = {}
        self._doubted_until: dict[tuple[str, int], float] = {}

    def begin(self, instance_id: str) -> None:
        self.inflight[instance_id] = self.inflight.get(instance_id, 0) + 1

    def end(self, instance_id: str) -> None:
        self.inflight[instance_id] -= 1
        self._ended[instance_id] = time.monotonic()

    def doubt(self, run: tuple[str, int]) -> None:
        """It broke a request off before the first byte, or could not be reached."""
        self._doubted_until[run] = time.monotonic() + DOUBT_SECONDS

    def doubted(self) -> Collection[tuple[str, int]]:
        if self._doubted_until:
            now = time.monotonic()
            self._doubted_until = {run: until for run, until in self._doubted_until.items() if until > now}
        return self._doubted_until

    def idle(self) -> dict[str, float]:
        """Seconds since the last request ended, of instances with none in flight."""
        now = time.monotonic()
        return {key: round(now - at, 1) for key, at in self._ended.items() if not self.inflight.get(key)}

    def busy(self) -> dict[str, int]:
        return {key: count for key, count in self.inflight.items() if count}

    def retain(self, instance_ids: Iterable[str]) -> None:
        known = set(instance_ids)
        for key in [key for key in self.inflight if key not in known and not self.inflight[key]]:
            del self.inflight[key]
            self._ended.pop(key, None)
