"""The events that wait for one socket: only the latest value per object, so that a slow client costs little memory."""

import asyncio

from core.events import EVERYONE, OPERATORS, SocketEvent

MAX_CHARACTERS = 512 * 1024


class OutboxOverflow(Exception):
    """The outbox is full: too many objects changed while the client did not read."""


class Outbox:
    """The hub fills it, the writer task of the socket empties it, both in one event loop."""

    def __init__(self, actor):
        self._waiting: dict[tuple[str, str], str] = {}
        self._characters = 0
        self._stale: set[str] = set()
        self._has_work = asyncio.Event()
        self.events: set[str] = set()
        self.act_for(actor)

    def act_for(self, actor) -> None:
        self._audiences = {OPERATORS} if actor.sees_all else {EVERYONE, actor.tenant.pk}
        self._models = frozenset(actor.key.allowed_models) if actor.key else frozenset()

    def accepts(self, event: SocketEvent) -> bool:
        """A key that is limited to some models gets no events of others."""
        if event.name not in self.events or self._audiences.isdisjoint(event.audiences):
            return False
        return not (self._models and event.model) or event.model in self._models

    def put(self, event: SocketEvent) -> None:
        """Raises Overflow."""
        slot = (event.name, event.key)
        self._characters += len(event.text) - len(self._waiting.get(slot, ""))
        self._waiting[slot] = event.text
        if self._characters > MAX_CHARACTERS:
            raise OutboxOverflow
        self._has_work.set()

    def subscribe(self, events: list[str]) -> None:
        self.events |= set(events)
        self.refresh(events)

    def unsubscribe(self, events: list[str]) -> None:
        self.events -= set(events)
        self._stale -= set(events)
        self._drop(events)

    def refresh(self, events: list[str] | None = None) -> None:
        """Marks the state of these events (default: all) to be read again, because some may have been missed."""
        self._stale |= self.events if events is None else self.events.intersection(events)
        self._has_work.set()

    async def ready(self) -> None:
        """Waits until there is something to send."""
        await self._has_work.wait()
        self._has_work.clear()

    def take_stale(self) -> set[str]:
        """Events whose state must be read now. Drops their waiting values, which are older than that state."""
        stale, self._stale = self._stale, set()
        self._drop(stale)
        return stale

    def take(self) -> str | None:
        """The text that has waited longest."""
        if not self._waiting:
            return None
        text = self._waiting.pop(next(iter(self._waiting)))
        self._characters -= len(text)
        return text

    def _drop(self, events) -> None:
        for slot in [slot for slot in self._waiting if slot[0] in events]:
            self._characters -= len(self._waiting.pop(slot))
