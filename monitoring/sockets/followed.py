"""The log lines of the models that one socket follows: every line, in order, as fast as the client reads."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from dataclasses import dataclass

import orjson
from django.utils.translation import gettext_lazy as _

from core import broker
from core.errors import InvalidRequest
from inference.logs.log_responses import render_line
from inference.logs.stream import LogEntry
from inference.logs.tail import ENTRY_ID, LogTail
from monitoring.topics import LOG

MAX_MODELS = 20
MAX_LINES = 100  # at the start; with `since` there is no limit
PAGE_LINES = 50  # lines of all models together: what a socket whose client does not read holds in memory


@dataclass(frozen=True)
class LogSubscription:
    """What a subscription requests: the model by id or name, and the last `lines` or everything after line `since`."""

    model: str
    lines: int
    since: str | None


def parse_subscription(message: dict) -> LogSubscription:
    """Raises InvalidRequest with the name of the field."""
    model, lines, since = message.get("model_id"), message.get("lines", MAX_LINES), message.get("since")
    if not isinstance(model, str) or not model:
        raise InvalidRequest(_("Name the model whose log is wanted."), param="model_id")
    if type(lines) is not int or not 0 < lines <= MAX_LINES:
        raise InvalidRequest(_("A number from 1 to %d is expected.") % MAX_LINES, param="lines")
    if since is not None and not (isinstance(since, str) and ENTRY_ID.fullmatch(since)):
        raise InvalidRequest(_("The id of a log line is expected."), param="since")
    return LogSubscription(model, lines, since)


class LogFollower:
    """For one event loop. `push` sends a text and waits for a slow client; `spawn` starts a task of the socket."""

    def __init__(self, push: Callable[[str], Awaitable], spawn: Callable[..., asyncio.Task]):
        self._push, self._spawn = push, spawn
        self._tasks: dict[str, asyncio.Task] = {}
        self._page_lock = asyncio.Lock()  # one page at a time for all models

    @property
    def models(self) -> set[str]:
        return set(self._tasks)

    def check_room(self, model_id: str) -> None:
        """Raises InvalidRequest."""
        if len(self.models - {model_id}) >= MAX_MODELS:
            raise InvalidRequest(_("One socket can follow at most %d logs.") % MAX_MODELS, param="model_id")

    def begin(self, model_id: str, subscription: LogSubscription, *, whole: bool) -> None:
        """Replaces an earlier subscription to the same model. `whole`: with the fields that only operators see."""
        self.end([model_id])
        tail = LogTail(model_id, subscription.lines, subscription.since, PAGE_LINES)
        self._tasks[model_id] = self._spawn(self._send_lines(model_id, tail, whole))

    def end(self, model_ids: Collection[str]) -> None:
        for model_id in model_ids:
            if task := self._tasks.pop(model_id, None):
                task.cancel()

    async def _send_lines(self, model_id: str, tail: LogTail, whole: bool) -> None:
        with tail.watched():
            async with self._page_lock:
                async for entries in _history(tail):
                    await self._push_entries(model_id, entries, whole)
            while self._tasks.get(model_id) is asyncio.current_task():  # a cancellation can be lost inside redis-py
                async with self._page_lock:
                    entries = await tail.new()
                    await self._push_entries(model_id, entries, whole)
                if not entries:
                    await tail.wait()

    async def _push_entries(self, model_id: str, entries: list[LogEntry], whole: bool) -> None:
        for entry in entries:
            data = {"model_id": model_id, "id": entry.id, **render_line(entry.line, whole=whole)}
            await self._push(orjson.dumps({"type": LOG, "data": data}).decode())


async def _history(tail: LogTail) -> AsyncIterator[list[LogEntry]]:
    """Stops if the broker is unreachable; `tail.new` then continues at the same place."""
    try:
        async for entries in tail.history():
            yield entries
    except broker.UNAVAILABLE:
        return
