"""One client's position in a model's lines: stored lines page by page, then new ones, each exactly once."""

import asyncio
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress

from core import broker
from inference.logs import notifier
from inference.logs.stream import LogEntry

ENTRY_ID = re.compile(r"\d{1,16}-\d{1,16}", re.ASCII)
BEGINNING = "0"
MAX_WAIT = 1.0  # seconds: the longest wait for new lines before the caller does other checks


class LogTail:
    """For one event loop. Keeps at most one page in memory, and has no thread or connection of its own.

    `resume_after` is the id of the last line that the client has; without it, the client gets the last `lines`.
    """

    def __init__(self, model_id: str, lines: int, resume_after: str | None, page: int):
        self._model_id, self._lines, self._resumed, self._page = model_id, lines, resume_after is not None, page
        self._cursor = resume_after or BEGINNING
        self._delivered: dict[str, _Delivered] = defaultdict(_Delivered)
        self._notifier = notifier.notifier_of_loop()

    @contextmanager
    def watched(self) -> Iterator[None]:
        """All other methods must be called inside this context."""
        with self._notifier.watch(self._model_id) as self._changed:
            yield

    async def history(self) -> AsyncIterator[list[LogEntry]]:
        """The lines stored already. Raises one of broker.UNAVAILABLE."""
        if self._resumed:
            while entries := await self._next_page():
                yield self._undelivered(entries)
            return
        entries = await self._notifier.latest(self._model_id, self._lines)
        for start in range(0, len(entries), self._page):
            yield self._undelivered(entries[start : start + self._page])

    async def new(self) -> list[LogEntry]:
        """The next page. Also empty if Valkey is unavailable; no line is lost, as the position stays."""
        self._changed.clear()
        with suppress(*broker.UNAVAILABLE):
            return self._undelivered(await self._next_page())
        return []

    async def wait(self) -> None:
        """Wait until there may be new lines, at most MAX_WAIT."""
        with suppress(TimeoutError):
            async with asyncio.timeout(MAX_WAIT):
                await self._changed.wait()

    async def _next_page(self) -> list[LogEntry]:
        return await self._notifier.after(self._model_id, self._cursor, self._page)

    def _undelivered(self, entries: list[LogEntry]) -> list[LogEntry]:
        if entries:
            self._cursor = entries[-1].id
        return [entry for entry in entries if self._delivered[entry.line.instance_id].is_new(entry.line.time)]


class _Delivered:
    """The newest delivered line of one instance. Skips lines that the agent wrote again after Valkey lost them."""

    def __init__(self):
        self._newest, self._count_at_newest, self._repeats_left = 0.0, 0, 0

    def is_new(self, time: float) -> bool:
        """Several lines may have the same time: as many of them are skipped as were delivered."""
        if time < self._newest:
            self._repeats_left = self._count_at_newest
            return False
        if time == self._newest and self._repeats_left:
            self._repeats_left -= 1
            return False
        self._count_at_newest = self._count_at_newest + 1 if time == self._newest else 1
        self._newest = time
        return True
