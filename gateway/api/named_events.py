"""Streams whose events have names, as those of /v1/responses and /v1/messages: they pass, and are counted.

Engines put token counts into few of these events. A stream that breaks off before the last of them is metered by
the last count that came and the pieces of text since: at least one token each.
"""

from collections.abc import Callable
from dataclasses import dataclass

import orjson

from gateway.api.stream_relay import EVENT_BYTES, Usage

ERROR = b"error"
NAME, DATA = b"event: ", b"data: "


@dataclass(slots=True, frozen=True)
class Dialect:
    """What events mean by their names. `read` makes counts out of the data of one that is `counted`.

    `last` ends a stream, `failed` tells that the engine failed; one of `pieces` holds at least one token.
    """

    read: Callable[[dict], Usage]
    counted: frozenset[bytes]
    pieces: frozenset[bytes]
    last: frozenset[bytes]
    failed: frozenset[bytes] = frozenset({ERROR})


class NamedEventRelay:
    """A relay (see Relay) of such a stream. Whole events are passed, and only those with counts are parsed."""

    def __init__(self, dialect: Dialect):
        self._dialect = dialect
        self._tail = b""
        self._usage, self._pieces = Usage(), 0
        self.done = False
        self.failure: str | None = None
        self.error = b""

    def feed(self, data: bytes) -> bytes:
        if self.done or self.failure:
            return b""
        *events, self._tail = (self._tail + data).split(b"\n\n")
        out = []
        for event in events:
            if self.done or self.failure:
                break
            self._one(event, out)
        if len(self._tail) > EVENT_BYTES and not self.done:
            self.failure = self.failure or "an event without end"
        return b"".join(out)

    def _one(self, event: bytes, out: list[bytes]) -> None:
        name, found, data = event.partition(b"\n" + DATA)
        if found and name.startswith(NAME):
            self._named(name[len(NAME) :], data, event, out)
        elif event.startswith(b'data: {"error"'):
            self.failure, self.error = "an error of the engine", event[len(DATA) :]
        elif event and not event.startswith(b":") and event != b"data: [DONE]":
            self.failure = "not an event stream"

    def _named(self, name: bytes, data: bytes, event: bytes, out: list[bytes]) -> None:
        dialect = self._dialect
        if name in dialect.failed:
            self.failure, self.error = "an error of the engine", data
        elif name in dialect.counted and not self._count(data):
            self.failure = "an event that cannot be read"
        else:
            self._pieces += name in dialect.pieces
            self.done = name in dialect.last
            out.append(event + b"\n\n")

    def _count(self, data: bytes) -> bool:
        try:
            self._usage, self._pieces = self._dialect.read(orjson.loads(data)), 0
        except (LookupError, TypeError, ValueError):
            return False
        return True

    def usage(self) -> Usage:
        counted = self._usage
        return Usage(counted.prompt, counted.completion + self._pieces, counted.cached)
