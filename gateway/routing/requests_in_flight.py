"""Requests in flight in this process, idle times, and runs that have failed recently."""

import time
from collections.abc import Collection, Hashable, Iterable
from typing import Generic, TypeVar

SUSPECT_SECONDS = 10.0  # by then its agent has noticed a crash; a run that is still ready is used again

Key = TypeVar("Key", bound=Hashable)
LoadedAdapter = tuple[str, str]  # instance id and adapter version


class RequestCounts(Generic[Key]):
    """Requests in flight by key, and when the last one ended."""

    def __init__(self) -> None:
        self.inflight: dict[Key, int] = {}
        self._ended: dict[Key, float] = {}

    def begin(self, key: Key) -> None:
        self.inflight[key] = self.inflight.get(key, 0) + 1

    def end(self, key: Key) -> None:
        self.inflight[key] -= 1
        self._ended[key] = time.monotonic()

    def idle(self) -> dict[Key, float]:
        """Seconds since the last request ended, of those with none in flight."""
        now = time.monotonic()
        return {key: round(now - at, 1) for key, at in self._ended.items() if not self.inflight.get(key)}

    def busy(self) -> dict[Key, int]:
        return {key: count for key, count in self.inflight.items() if count}

    def retain(self, keys: Iterable[Key]) -> None:
        known = set(keys)
        for key in [key for key in self.inflight if key not in known and not self.inflight[key]]:
            del self.inflight[key]
            self._ended.pop(key, None)


class RequestTracker:
    """Counts by instance and, for adapters, by instance and version; runs (instance id, generation) to avoid."""

    def __init__(self) -> None:
        self.instances: RequestCounts[str] = RequestCounts()
        self.adapters: RequestCounts[LoadedAdapter] = RequestCounts()
        self._suspect_until: dict[tuple[str, int], float] = {}

    @property
    def inflight(self) -> dict[str, int]:
        return self.instances.inflight

    def begin(self, instance_id: str, adapter: str = "") -> None:
        self.instances.begin(instance_id)
        if adapter:
            self.adapters.begin((instance_id, adapter))

    def end(self, instance_id: str, adapter: str = "") -> None:
        self.instances.end(instance_id)
        if adapter:
            self.adapters.end((instance_id, adapter))

    def mark_suspect(self, run: tuple[str, int]) -> None:
        """Avoid the run for a while: it failed a request before the first byte, or could not be reached."""
        self._suspect_until[run] = time.monotonic() + SUSPECT_SECONDS

    def recently_failed(self) -> Collection[tuple[str, int]]:
        if self._suspect_until:
            now = time.monotonic()
            self._suspect_until = {run: until for run, until in self._suspect_until.items() if until > now}
        return self._suspect_until
