"""What this process has in flight per instance, and for how long an instance has had nothing to do."""

import time
from collections.abc import Iterable


class Traffic:
    """Requests in flight per instance, and when the last one ended."""

    def __init__(self):
        self.inflight: dict[str, int] = {}
        self._ended: dict[str, float] = {}

    def begin(self, instance_id: str) -> None:
        self.inflight[instance_id] = self.inflight.get(instance_id, 0) + 1

    def end(self, instance_id: str) -> None:
        self.inflight[instance_id] -= 1
        self._ended[instance_id] = time.monotonic()

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
