"""Relays an engine's event stream to the client and cuts out the token counts that only we requested.

Engines count in every chunk (`continuous_usage_stats`), so a stream that breaks off is metered to the token.
No event is parsed; whole events are cut by slice, so the result does not depend on how TCP split the bytes.
"""

import re
from dataclasses import dataclass
from typing import Protocol

import orjson

from gateway.json_types import JsonObject

MAX_EVENT_BYTES = 8 * 1024 * 1024  # no event of an engine is longer
MAX_TOKENS = 2**31 - 1

# An object with at most two more levels in it; JSON text cannot contain the unescaped key.
_OBJECT = rb"\{[^{}]*(?:\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}[^{}]*)*\}"
USAGE = re.compile(rb',\s?"usage":\s?(' + _OBJECT + rb"|null)")
NO_CHOICES = re.compile(rb'"choices":\s?\[\s?\]')
INDEX = re.compile(rb'"index":\s?(\d{1,4})')


@dataclass(slots=True, frozen=True)
class TokenUsage:
    """Token counts of one request; `cached` of the prompt's tokens came from the prefix cache."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0


def read_usage(value: object) -> TokenUsage:
    """Usage from an engine's JSON; a value that is not a plausible count becomes 0."""
    if type(value) is not dict:
        return TokenUsage()
    details = value.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if type(details) is dict else None
    prompt = _count(value.get("prompt_tokens"))
    return TokenUsage(prompt, _count(value.get("completion_tokens")), min(_count(cached), prompt))


def _count(value: object) -> int:
    return value if type(value) is int and 0 <= value <= MAX_TOKENS else 0


class Relay(Protocol):
    """Feed it what the engine sends; what it returns goes to the client.

    `done` is set by the stream's last event; `failure` by an error event (its bytes are in `error`), or by bytes
    that are no event stream. After either, `feed` returns nothing more.
    """

    done: bool
    failure: str | None
    error: bytes

    def feed(self, data: bytes) -> bytes: ...

    def usage(self) -> TokenUsage: ...


class StreamRelay:
    """A relay of OpenAI's chunks: events without a name, ended by `[DONE]`."""

    def __init__(
        self, *, show_usage: bool = False, show_continuous: bool = False, choices: int = 1, prompts: int = 1
    ) -> None:
        self._show_usage, self._show_continuous = show_usage, show_continuous
        self._choices, self._several = choices, choices * prompts > 1
        self._tail = b""
        self._last_usage: dict[int, bytes] = {}
        self._final_usage: bytes | None = None
        self.done = False
        self.failure: str | None = None
        self.error = b""

    def feed(self, data: bytes) -> bytes:
        if self.done or self.failure:
            return b""
        if self._tail:
            data = self._tail + data
        *events, self._tail = data.split(b"\n\n")
        out = self._relay_events(events) if events else b""
        if len(self._tail) > MAX_EVENT_BYTES and not self.done:
            self.failure = self.failure or "an event without end"
        return out

    def _relay_events(self, events: list[bytes]) -> bytes:
        out: list[bytes] = []
        for event in events:
            if self.done or self.failure:
                break
            if len(event) > MAX_EVENT_BYTES:
                self.failure = "an event without end"
            elif event.startswith(b"data: {") and event.endswith(b"}"):
                self._relay_event(event, out)
            elif event == b"data: [DONE]":
                self.done = True
                out.append(event)
            elif event and not event.startswith(b":"):
                self.failure = "not an event stream"
        if not out:
            return b""
        out.append(b"")
        return b"\n\n".join(out)

    def _relay_event(self, event: bytes, out: list[bytes]) -> None:
        if event.startswith(b'data: {"error"'):
            self.failure, self.error = "an error of the engine", event[6:]
            return
        at = event.rfind(b'"usage":')
        found = USAGE.search(event, max(0, at - 2)) if at > 0 else None
        if found is None:
            out.append(event)
        elif NO_CHOICES.search(event):
            self._final_usage = found[1]
            if self._show_usage:
                out.append(event)
        else:
            self._save_usage(event, found[1])
            out.append(event if self._show_continuous else event[: found.start()] + event[found.end() :])

    def _save_usage(self, event: bytes, usage: bytes) -> None:
        index = INDEX.search(event) if self._several else None
        self._last_usage[int(index[1]) if index else 0] = usage

    def usage(self) -> TokenUsage:
        """The engine's own total or, if the stream broke off, the sum of the last counts of all choices."""
        if self._final_usage is not None:
            return read_usage(parse_object(self._final_usage))
        prompts: dict[int, int] = {}
        completion = 0
        for index, raw in self._last_usage.items():
            usage = read_usage(parse_object(raw))
            prompts[index // self._choices] = usage.prompt
            completion += usage.completion
        return TokenUsage(sum(prompts.values()), completion)


def parse_object(raw: bytes) -> JsonObject | None:
    """The object in an engine's JSON; None if it is no object, or not JSON."""
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
    return value if type(value) is dict else None
