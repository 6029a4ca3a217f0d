"""What one socket has yet to be told: per object the latest value only, so that a slow reader costs little."""

import asyncio

from core.events import EVERYONE, OPERATORS, Event

MOST_CHARACTERS = 512 * 1024


class Overflow(Exception):
    """So many objects changed while the socket took nothing that the bound is reached."""


class Outbox:
    """Filled by the hub, emptied by the socket's writer, both in one event loop."""

    def __init__(self, actor):
        self._waiting: dict[tuple[str, str], str] = {}
        self._characters = 0
        self._stale: set[str] = set()
        self._bell = asyncio.Event()
        self.events: set[str] = set()
        self.act_for(actor)

    def act_for(self, actor) -> None:
        self._audiences = {OPERATORS} if actor.sees_all else {EVERYONE, actor.tenant.pk}
        self._models = frozenset(actor.key.allowed_models) if actor.key else frozenset()

    def hears(self, event: Event) -> bool:
        """A key that is limited to some models hears of no others."""
        if event.name not in self.events or self._audiences.isdisjoint(event.audiences):
            return False
        return not (self._models and event.model) or event.model in self._models

    def put(self, event: Event) -> None:
        """Raises Overflow."""
        place = (event.name, event.key)
        self._characters += len(event.text) - len(self._waiting.get(place, ""))
        self._waiting[place] = event.text
        if self._characters > MOST_CHARACTERS:
            raise Overflow
        self._bell.set()

    def listen(self, events: list[str]) -> None:
        self.events |= set(events)
        self.refresh(events)

    def ignore(self, events: list[str]) -> None:
        self.events -= set(events)
        self._stale -= set(events)
        self._drop(events)

    def refresh(self, events: list[str] | None = None) -> None:
        """Something may have been missed: the state of these events (else of all) is to be read anew."""
        self._stale |= self.events if events is None else self.events.intersection(events)
        self._bell.set()

    async def ready(self) -> None:
        """Until there is something to be told."""
        await self._bell.wait()
        self._bell.clear()

    def take_stale(self) -> set[str]:
        """Events whose state is to be read now. What waits of them is older than what will be read."""
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
        for place in [place for place in self._waiting if place[0] in events]:
            self._characters -= len(self._waiting.pop(place))
