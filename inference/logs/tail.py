"""One reader's place in a model's lines: what is kept, page by page, then what comes; nothing lost, nothing twice."""

import asyncio
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress

from core import broker
from inference.logs import notifier
from inference.logs.stream import Entry

ENTRY_ID = re.compile(r"\d{1,16}-\d{1,16}", re.ASCII)
BEGINNING = "0"
PATIENCE = 1.0  # seconds until one who waits for lines looks up for other things


class Tail:
    """For one event loop. Holds no more than a page; neither a thread nor a connection is its own.

    `resume_after` is the id of the last line that the reader has; else he gets the last `lines`.
    """

    def __init__(self, model_id: str, lines: int, resume_after: str | None, page: int):
        self._model_id, self._lines, self._resumed, self._page = model_id, lines, resume_after is not None, page
        self._cursor = resume_after or BEGINNING
        self._told: dict[str, _Told] = defaultdict(_Told)
        self._tips = notifier.here()

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Around everything else."""
        with self._tips.watch(self._model_id) as self._changed:
            yield

    async def history(self) -> AsyncIterator[list[Entry]]:
        """What is kept already. Raises one of broker.UNAVAILABLE."""
        if self._resumed:
            while entries := await self._next_page():
                yield self._untold(entries)
            return
        entries = await self._tips.latest(self._model_id, self._lines)
        for start in range(0, len(entries), self._page):
            yield self._untold(entries[start : start + self._page])

    async def new(self) -> list[Entry]:
        """The next page; empty also where Valkey is away, and then nothing is lost: the place stays."""
        self._changed.clear()
        with suppress(*broker.UNAVAILABLE):
            return self._untold(await self._next_page())
        return []

    async def wait(self) -> None:
        """Until there may be more, but not long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                await self._changed.wait()

    async def _next_page(self) -> list[Entry]:
        return await self._tips.after(self._model_id, self._cursor, self._page)

    def _untold(self, entries: list[Entry]) -> list[Entry]:
        if entries:
            self._cursor = entries[-1].id
        return [entry for entry in entries if self._told[entry.line.instance_id].is_new(entry.line.time)]


class _Told:
    """Lines of one instance that Valkey lost and got again were told already: its time only goes on."""

    def __init__(self):
        self._newest, self._of_newest, self._come_again = 0.0, 0, 0

    def is_new(self, time: float) -> bool:
        """Several lines may have the same time, and so as many of them come again."""
        if time < self._newest:
            self._come_again = self._of_newest
            return False
        if time == self._newest and self._come_again:
            self._come_again -= 1
            return False
        self._of_newest = self._of_newest + 1 if time == self._newest else 1
        self._newest = time
        return True
