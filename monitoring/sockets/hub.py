"""One subscription of a process to the platform's events, handed on to all of its sockets."""

import asyncio
import logging
import time
from collections import defaultdict
from contextlib import suppress
from typing import Protocol
from weakref import WeakKeyDictionary

from channels.db import database_sync_to_async
from django.db import DatabaseError, InterfaceError
from redis.asyncio.client import PubSub

from accounts.actor import Actor
from accounts.ticket_identity import Principal
from core import broker, events
from core.periodic import Level, Periodic
from monitoring.sockets.credentials import standing
from monitoring.sockets.followed import Followed
from monitoring.sockets.outbox import Outbox, Overflow

logger = logging.getLogger(__name__)

RETRY_SECONDS = 1.0
LISTEN_SECONDS = 2.0
RECHECK_SECONDS = 4.0
SNAPSHOT_SECONDS = 30.0  # makes good what was lost on the way
SILENCE_SECONDS = 10.0  # after which the connection is asked whether it lives


class Socket(Protocol):
    """What the hub needs of an open, signed-in socket."""

    credential: Principal
    outbox: Outbox
    followed: Followed

    def overflowed(self) -> None: ...
    def rechecked(self, actor: Actor | None, readable: set[str]) -> None: ...


class Hub:
    """Works while it has sockets. For one event loop."""

    def __init__(self):
        self._sockets: set[Socket] = set()
        self._tasks: list[asyncio.Task] = []
        self._listening = asyncio.Event()
        self._loops = [
            Periodic("sockets' rights", Level.HIGH, RECHECK_SECONDS),
            Periodic("sockets' states", Level.MEDIUM, SNAPSHOT_SECONDS),
        ]

    def join(self, socket: Socket) -> None:
        self._sockets.add(socket)
        if not self._tasks:
            loops = (
                self._follow(),
                self._every(self._loops[0], self._recheck),
                self._every(self._loops[1], self._refresh),
            )
            self._tasks = [asyncio.create_task(loop) for loop in loops]

    def leave(self, socket: Socket) -> None:
        self._sockets.discard(socket)
        if not self._sockets:
            for task in self._tasks:
                task.cancel()
            self._tasks = []
            for loop in self._loops:
                loop.end()
            self._listening.clear()

    async def listening(self) -> None:
        """A state that is read from here on misses no event; without a broker that is so after the next refresh."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LISTEN_SECONDS):
                await self._listening.wait()

    # --- events

    def _wanted(self) -> bool:
        """Whether the running task is still one of ours: a cancellation can be lost inside the broker's library."""
        return asyncio.current_task() in self._tasks

    async def _follow(self) -> None:
        while self._wanted():
            try:
                await self._listen()
            except broker.UNAVAILABLE as error:
                logger.warning("events are not received: %s", type(error).__name__)
            self._listening.clear()
            await asyncio.sleep(RETRY_SECONDS)

    async def _listen(self) -> None:
        async with broker.async_client(timeout=None) as client, client.pubsub(ignore_subscribe_messages=True) as pubsub:
            await pubsub.subscribe(events.CHANNEL)
            await self._refresh()
            self._listening.set()
            await self._hear(pubsub)

    async def _hear(self, pubsub: PubSub) -> None:
        """Raises TimeoutError for a connection that something on the way has dropped without a word."""
        heard_at = time.monotonic()
        while self._wanted():
            message = await pubsub.get_message(timeout=SILENCE_SECONDS)
            if message is not None:
                heard_at = time.monotonic()
                if message["type"] == "message" and self._wanted():
                    self._hand_on(events.decode(message["data"]))
            elif time.monotonic() - heard_at > 2 * SILENCE_SECONDS:
                raise TimeoutError
            else:
                await pubsub.ping()

    def _hand_on(self, event: events.Event) -> None:
        for socket in [socket for socket in self._sockets if socket.outbox.hears(event)]:
            try:
                socket.outbox.put(event)
            except Overflow:
                socket.overflowed()

    # --- rights and states, from time to time

    async def _every(self, loop: Periodic, work) -> None:
        while self._wanted():
            await asyncio.sleep(loop.interval)
            try:
                with loop.turn():
                    await work()
            except (DatabaseError, InterfaceError) as error:
                logger.warning("sockets: the database is away (%s)", type(error).__name__)

    async def _recheck(self) -> None:
        """Sockets of one credential are looked up once."""
        holders = defaultdict(list)
        for socket in self._sockets:
            holders[socket.credential].append(socket)
        followed = {who: set().union(*(each.followed.models for each in some)) for who, some in holders.items()}
        found = await database_sync_to_async(standing)(followed)
        for credential, (actor, readable) in found.items():
            for socket in holders[credential]:
                socket.rechecked(actor, readable | (socket.followed.models - followed[credential]))

    async def _refresh(self) -> None:
        for socket in self._sockets:
            socket.outbox.refresh()


_hubs: WeakKeyDictionary[asyncio.AbstractEventLoop, Hub] = WeakKeyDictionary()


def here() -> Hub:
    """The hub of the running event loop."""
    return _hubs.setdefault(asyncio.get_running_loop(), Hub())
