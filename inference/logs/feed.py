"""A stream of log lines for one client as server-sent events: first the stored lines, then new ones."""

import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Protocol

import orjson
from channels.db import database_sync_to_async
from django.db import DatabaseError, InterfaceError
from django.db.models import QuerySet
from django.utils import translation
from django.utils.translation import gettext_lazy as _

from accounts.actor import Actor
from accounts.credential_identity import CredentialIdentity
from core import broker
from core.asgi_server import shutdown
from core.errors import PlatformError
from core.streaming import HEARTBEAT_COMMENT, HEARTBEAT_INTERVAL
from inference.logs.stream import LogEntry
from inference.logs.tail import ENTRY_ID, LogTail

PAGE = 500  # lines in one chunk: how much a slow client keeps in memory
RECHECK_INTERVAL = 4.0

NOT_ALLOWED = _("You may no longer read these logs.")
DATABASE_UNAVAILABLE = _("The database cannot be reached. Try again shortly.")
LOGS_UNAVAILABLE = _("The logs cannot be read at the moment; the stream goes on when they can.")


class LogFormat(Protocol):
    """How an API renders its events."""

    def line(self, entry: LogEntry, *, new: bool) -> dict: ...
    def caught_up(self) -> list[dict]: ...
    def error(self, message: str) -> dict: ...
    def end(self) -> list[dict]: ...


@dataclass(frozen=True)
class LogReader:
    """A client and what it reads: the lines of the row with id `name`, while `rows(actor)` contains that row.

    `resume_after` is the id of the last line that the client has; without it, the client gets the last `lines`.
    """

    principal: CredentialIdentity
    actor: Actor
    name: str
    rows: Callable[[Actor], QuerySet]
    lines: int
    resume_after: str | None
    form: LogFormat
    language: str = field(default_factory=translation.get_language)

    def may_still_read(self) -> bool:
        """Also false if the client acts for another tenant now, or if the model or job is deleted."""
        try:
            actor = self.principal.reading_actor()
        except PlatformError:
            return False
        rights = (actor.tenant, actor.sees_all, actor.is_operator)
        if rights != (self.actor.tenant, self.actor.sees_all, self.actor.is_operator):
            return False
        return self.rows(actor).filter(pk=self.name).exists()


def parse_resume_id(given: str | None) -> str | None:
    """The id of the last line that a client has; None if it is no valid id."""
    return given if given and ENTRY_ID.fullmatch(given) else None


class Feed:
    """Iterating it yields the bytes of the events."""

    def __init__(self, reader: LogReader):
        self._reader, self._form = reader, reader.form
        self._tail = LogTail(reader.name, reader.lines, reader.resume_after, PAGE)
        self._checked_at = self._sent_at = time.monotonic()

    async def events(self) -> AsyncGenerator[bytes]:
        with self._tail.watched():
            async for chunk in self._history():
                yield chunk
            yield self._render(self._form.caught_up())
            while (end_reason := await self._end_reason()) is None:
                if entries := await self._tail.new():
                    yield self._mark_sent(self._lines(entries, new=True))
                elif time.monotonic() - self._sent_at >= HEARTBEAT_INTERVAL:
                    yield self._mark_sent(HEARTBEAT_COMMENT)
                else:
                    await self._tail.wait()
        yield self._render([*([self._error(end_reason)] if end_reason else []), *self._form.end()])

    async def _history(self) -> AsyncIterator[bytes]:
        try:
            async for entries in self._tail.history():
                yield self._lines(entries, new=False)
        except broker.UNAVAILABLE:
            yield self._render([self._error(LOGS_UNAVAILABLE)])

    def _lines(self, entries: list[LogEntry], *, new: bool) -> bytes:
        return b"".join(_event(self._form.line(entry, new=new), entry.id) for entry in entries)

    async def _end_reason(self) -> str | None:
        """None while the stream continues; else why it ends, empty if nothing is wrong."""
        if shutdown.begun:
            return ""
        if time.monotonic() - self._checked_at < RECHECK_INTERVAL:
            return None
        self._checked_at = time.monotonic()
        try:
            allowed = await database_sync_to_async(self._reader.may_still_read)()
        except (DatabaseError, InterfaceError):
            return str(DATABASE_UNAVAILABLE)
        return None if allowed else str(NOT_ALLOWED)

    def _mark_sent(self, chunk: bytes) -> bytes:
        self._sent_at = time.monotonic()
        return chunk

    def _error(self, message) -> dict:
        with translation.override(self._reader.language):
            return self._form.error(str(message))

    def _render(self, events: list[dict]) -> bytes:
        return b"".join(map(_event, events))


def _event(data: dict, entry_id: str = "") -> bytes:
    head = b"id: %s\n" % entry_id.encode() if entry_id else b""
    return head + b"data: " + orjson.dumps(data) + b"\n\n"


def open_feed(reader: LogReader) -> Callable[[], AsyncGenerator[bytes]]:
    """For an EventStream, which creates the feed on its own event loop."""
    return lambda: Feed(reader).events()
