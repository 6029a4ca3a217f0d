"""Relays streams of named events, as of /v1/responses and /v1/messages, and counts their tokens.

Engines put token counts into few of these events. A stream that breaks off early is metered by the last count
received, plus one token for each piece of text since then: it has at least one.
"""

from collections.abc import Callable
from dataclasses import dataclass

import orjson

from gateway.api.stream_relay import MAX_EVENT_BYTES, TokenUsage
from gateway.json_types import JsonObject

ERROR = b"error"
NAME, DATA = b"event: ", b"data: "


@dataclass(slots=True, frozen=True)
class EventKinds:
    """The meaning of event names. `counted` events hold token counts; `read` gets them from an event's data.

    `last` events end a stream, `failed` ones report an engine failure, one of `pieces` holds at least one token.
    """

    read: Callable[[JsonObject], TokenUsage]
    counted: frozenset[bytes]
    pieces: frozenset[bytes]
    last: frozenset[bytes]
    failed: frozenset[bytes] = frozenset({ERROR})


class NamedEventRelay:
    """A relay (see Relay) of such a stream. Only events with token counts are parsed."""

    def __init__(self, dialect: EventKinds) -> None:
        self._dialect = dialect
        self._tail = b""
        self._usage, self._pieces = TokenUsage(), 0
        self.done = False
        self.failure: str | None = None
        self.error = b""

    def feed(self, data: bytes) -> bytes:
        if self.done or self.failure:
            return b""
        *events, self._tail = (self._tail + data).split(b"\n\n")
        out: list[bytes] = []
        for event in events:
            if self.done or self.failure:
                break
            self._relay_event(event, out)
        if len(self._tail) > MAX_EVENT_BYTES and not self.done:
            self.failure = self.failure or "an event without end"
        return b"".join(out)

    def _relay_event(self, event: bytes, out: list[bytes]) -> None:
        name, found, data = event.partition(b"\n" + DATA)
        if found and name.startswith(NAME):
            self._relay_named_event(name[len(NAME) :], data, event, out)
        elif event.startswith(b'data: {"error"'):
            self.failure, self.error = "an error of the engine", event[len(DATA) :]
        elif event and not event.startswith(b":") and event != b"data: [DONE]":
            self.failure = "not an event stream"

    def _relay_named_event(self, name: bytes, data: bytes, event: bytes, out: list[bytes]) -> None:
        dialect = self._dialect
        if name in dialect.failed:
            self.failure, self.error = "an error of the engine", data
        elif name in dialect.counted and not self._update_usage(data):
            self.failure = "an event that cannot be read"
        else:
            self._pieces += name in dialect.pieces
            self.done = name in dialect.last
            out.append(event + b"\n\n")

    def _update_usage(self, data: bytes) -> bool:
        try:
            self._usage, self._pieces = self._dialect.read(orjson.loads(data)), 0
        except (LookupError, TypeError, ValueError):
            return False
        return True

    def usage(self) -> TokenUsage:
        counted = self._usage
        return TokenUsage(counted.prompt, counted.completion + self._pieces, counted.cached)
