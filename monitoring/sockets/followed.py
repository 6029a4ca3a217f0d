"""Log lines of the models that one socket follows: every line, in order, at the pace of its reader."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from dataclasses import dataclass

import orjson
from django.utils.translation import gettext_lazy as _

from core import broker
from core.errors import InvalidRequest
from inference.logs.log_responses import service_line
from inference.logs.stream import Entry
from inference.logs.tail import ENTRY_ID, Tail
from monitoring.topics import LOG

MOST_MODELS = 20
MOST_LINES = 100  # to begin with; after a line that one has, there may be any number
PAGE = 50  # lines of whichever model: what a socket that does not read holds in memory


@dataclass(frozen=True)
class Wish:
    """What a subscription asks for: the model by id or name, the last `lines`, or all after the line `since`."""

    model: str
    lines: int
    since: str | None


def wish(message: dict) -> Wish:
    """Raises InvalidRequest that names the field."""
    model, lines, since = message.get("model_id"), message.get("lines", MOST_LINES), message.get("since")
    if not isinstance(model, str) or not model:
        raise InvalidRequest(_("Name the model whose log is wanted."), param="model_id")
    if type(lines) is not int or not 0 < lines <= MOST_LINES:
        raise InvalidRequest(_("A number from 1 to %d is expected.") % MOST_LINES, param="lines")
    if since is not None and not (isinstance(since, str) and ENTRY_ID.fullmatch(since)):
        raise InvalidRequest(_("The id of a log line is expected."), param="since")
    return Wish(model, lines, since)


class Followed:
    """For one event loop. `push` sends a text and waits for a slow reader; `spawn` runs work beside the socket's."""

    def __init__(self, push: Callable[[str], Awaitable], spawn: Callable[..., asyncio.Task]):
        self._push, self._spawn = push, spawn
        self._tasks: dict[str, asyncio.Task] = {}
        self._turn = asyncio.Lock()  # one page at a time, however many models

    @property
    def models(self) -> set[str]:
        return set(self._tasks)

    def check_room(self, model_id: str) -> None:
        """Raises InvalidRequest."""
        if len(self.models - {model_id}) >= MOST_MODELS:
            raise InvalidRequest(_("One socket can follow at most %d logs.") % MOST_MODELS, param="model_id")

    def begin(self, model_id: str, wish: Wish, *, whole: bool) -> None:
        """Once more for the same model begins anew. `whole`: as operators read it."""
        self.end([model_id])
        tail = Tail(model_id, wish.lines, wish.since, PAGE)
        self._tasks[model_id] = self._spawn(self._follow(model_id, tail, whole))

    def end(self, model_ids: Collection[str]) -> None:
        for model_id in model_ids:
            if task := self._tasks.pop(model_id, None):
                task.cancel()

    async def _follow(self, model_id: str, tail: Tail, whole: bool) -> None:
        with tail.watched():
            async with self._turn:
                async for entries in _kept(tail):
                    await self._tell(model_id, entries, whole)
            while self._tasks.get(model_id) is asyncio.current_task():  # a cancellation can be lost inside redis-py
                async with self._turn:
                    entries = await tail.new()
                    await self._tell(model_id, entries, whole)
                if not entries:
                    await tail.wait()

    async def _tell(self, model_id: str, entries: list[Entry], whole: bool) -> None:
        for entry in entries:
            data = {"model_id": model_id, "id": entry.id, **service_line(entry.line, whole=whole)}
            await self._push(orjson.dumps({"type": LOG, "data": data}).decode())


async def _kept(tail: Tail) -> AsyncIterator[list[Entry]]:
    """What cannot be read now comes with what is new."""
    try:
        async for entries in tail.history():
            yield entries
    except broker.UNAVAILABLE:
        return
