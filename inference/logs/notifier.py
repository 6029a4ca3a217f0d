"""Notifies the log streams of a process of new lines: one query to Valkey for all watched models together."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from redis.asyncio import Redis

from core import broker
from inference.logs import stream
from inference.logs.stream import LogEntry

logger = logging.getLogger(__name__)

POLL_INTERVAL = 0.3
MAX_CONCURRENT_READS = 8  # connections to Valkey, for any number of streams


class NewLineNotifier:
    """For one event loop. Polls while there are watchers; each watcher is only an event here."""

    def __init__(self):
        self._watchers: dict[str, set[asyncio.Event]] = defaultdict(set)
        self._newest_ids: dict[str, bytes] = {}
        self._client: Redis | None = None
        self._reads = asyncio.Semaphore(MAX_CONCURRENT_READS)

    @contextmanager
    def watch(self, model_id: str) -> Iterator[asyncio.Event]:
        """Yields an event that is set whenever the model may have new lines."""
        changed = asyncio.Event()
        self._watchers[model_id].add(changed)
        if self._client is None:
            self._client = broker.async_client()
            self._task = asyncio.create_task(self._poll(self._client))
        try:
            yield changed
        finally:
            self._watchers[model_id].discard(changed)
            if not self._watchers[model_id]:
                del self._watchers[model_id]
                self._newest_ids.pop(model_id, None)

    async def after(self, model_id: str, cursor: str, count: int) -> list[LogEntry]:
        """The next lines after an entry id; `0`: from the first stored line. Only while the model is watched."""
        async with self._reads:
            entries = await self._connected().xrange(stream.keys(model_id)[0], min=f"({cursor}", count=count)
        return stream.decode(entries)

    async def latest(self, model_id: str, count: int) -> list[LogEntry]:
        """The newest lines, oldest first. Only while the model is watched."""
        async with self._reads:
            entries: Any = await self._connected().xrevrange(stream.keys(model_id)[0], count=count)
        return stream.decode(entries[::-1])

    def _connected(self) -> Redis:
        assert self._client is not None, "watch() connects, and a reader reads within it"
        return self._client

    async def _poll(self, client: Redis) -> None:
        """Until there are no watchers."""
        while self._watchers:
            try:
                await self._notify_changes(client)
            except broker.UNAVAILABLE as error:
                logger.warning("logs cannot be followed: %s", type(error).__name__)
                await asyncio.sleep(broker.TIMEOUT)
            await asyncio.sleep(POLL_INTERVAL)
        self._client = None
        await client.aclose()

    async def _notify_changes(self, client: Redis) -> None:
        watched = list(self._watchers)
        async with self._reads, client.pipeline(transaction=False) as pipeline:
            for model_id in watched:
                pipeline.xrevrange(stream.keys(model_id)[0], count=1)
            newest = await pipeline.execute()
        for model_id, entries in zip(watched, newest, strict=True):
            newest_id = entries[0][0] if entries else b""
            if self._newest_ids.get(model_id) != newest_id:
                self._newest_ids[model_id] = newest_id
                for changed in self._watchers.get(model_id, ()):
                    changed.set()


_notifiers: WeakKeyDictionary[asyncio.AbstractEventLoop, NewLineNotifier] = WeakKeyDictionary()


def notifier_of_loop() -> NewLineNotifier:
    """The instance of the running event loop."""
    return _notifiers.setdefault(asyncio.get_running_loop(), NewLineNotifier())
