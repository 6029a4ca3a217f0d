"""One broker subscription per process; its events are forwarded to all sockets of the process."""

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from channels.db import database_sync_to_async
from django.db import DatabaseError, InterfaceError
from redis.asyncio.client import PubSub

from accounts.actor import Actor
from accounts.credential_identity import CredentialIdentity
from core import broker, events
from core.periodic import LoopSeverity, Periodic
from monitoring.sockets.credentials import current_rights
from monitoring.sockets.followed import LogFollower
from monitoring.sockets.outbox import Outbox, OutboxOverflow

logger = logging.getLogger(__name__)

RETRY_INTERVAL = 1.0
SUBSCRIBE_TIMEOUT = 2.0
RECHECK_INTERVAL = 4.0
SNAPSHOT_INTERVAL = 30.0  # repairs what was lost in transit
SILENCE_TIMEOUT = 10.0  # without messages, after which the connection is pinged


@dataclass(eq=False)
class SocketSession:
    """An open socket whose caller is known, as the hub sees it."""

    actor: Actor
    credential: CredentialIdentity
    outbox: Outbox
    followed: LogFollower
    on_overflow: Callable[[], None]
    on_recheck: Callable[["SocketSession", Actor | None, set[str]], None]

    def act_for(self, actor: Actor) -> None:
        self.actor = actor
        self.outbox.act_for(actor)


class Hub:
    """Runs while it has sockets. For one event loop."""

    def __init__(self):
        self._sockets: set[SocketSession] = set()
        self._tasks: list[asyncio.Task] = []
        self._listening = asyncio.Event()
        self._loops = [
            Periodic("sockets' rights", LoopSeverity.HIGH, RECHECK_INTERVAL),
            Periodic("sockets' states", LoopSeverity.MEDIUM, SNAPSHOT_INTERVAL),
        ]

    def join(self, socket: SocketSession) -> None:
        self._sockets.add(socket)
        if not self._tasks:
            loops = (
                self._subscribe(),
                self._repeat(self._loops[0], self._recheck),
                self._repeat(self._loops[1], self._refresh),
            )
            self._tasks = [asyncio.create_task(loop) for loop in loops]

    def leave(self, socket: SocketSession) -> None:
        self._sockets.discard(socket)
        if not self._sockets:
            for task in self._tasks:
                task.cancel()
            self._tasks = []
            for loop in self._loops:
                loop.end()
            self._listening.clear()

    async def wait_until_subscribed(self) -> None:
        """Waits until subscribed: a state read later misses no event. Without a broker the next refresh repairs it."""
        with suppress(TimeoutError):
            async with asyncio.timeout(SUBSCRIBE_TIMEOUT):
                await self._listening.wait()

    # --- events

    def _is_active(self) -> bool:
        """Whether the running task is still one of ours: a cancellation can be lost inside redis-py."""
        return asyncio.current_task() in self._tasks

    async def _subscribe(self) -> None:
        while self._is_active():
            try:
                await self._listen()
            except broker.UNAVAILABLE as error:
                logger.warning("events are not received: %s", type(error).__name__)
            self._listening.clear()
            await asyncio.sleep(RETRY_INTERVAL)

    async def _listen(self) -> None:
        async with broker.async_client(timeout=None) as client, client.pubsub(ignore_subscribe_messages=True) as pubsub:
            await pubsub.subscribe(events.CHANNEL)
            await self._refresh()
            self._listening.set()
            await self._receive(pubsub)

    async def _receive(self, pubsub: PubSub) -> None:
        """Raises TimeoutError for a connection that was dropped without notice, for instance by a firewall."""
        received_at = time.monotonic()
        while self._is_active():
            message = await pubsub.get_message(timeout=SILENCE_TIMEOUT)
            if message is not None:
                received_at = time.monotonic()
                if message["type"] == "message" and self._is_active():
                    self._forward(events.decode(message["data"]))
            elif time.monotonic() - received_at > 2 * SILENCE_TIMEOUT:
                raise TimeoutError
            else:
                await pubsub.ping()

    def _forward(self, event: events.SocketEvent) -> None:
        for socket in [socket for socket in self._sockets if socket.outbox.accepts(event)]:
            try:
                socket.outbox.put(event)
            except OutboxOverflow:
                socket.on_overflow()

    # --- periodic checks of rights, and states

    async def _repeat(self, loop: Periodic, work) -> None:
        while self._is_active():
            await asyncio.sleep(loop.interval)
            try:
                with loop.turn():
                    await work()
            except (DatabaseError, InterfaceError) as error:
                logger.warning("sockets: the database is away (%s)", type(error).__name__)

    async def _recheck(self) -> None:
        """One lookup per credential, however many sockets use it."""
        sockets_of = defaultdict(list)
        for socket in self._sockets:
            sockets_of[socket.credential].append(socket)
        followed = {
            credential: set().union(*(socket.followed.models for socket in sockets))
            for credential, sockets in sockets_of.items()
        }
        rights = await database_sync_to_async(current_rights)(followed)
        for credential, (actor, readable) in rights.items():
            for socket in sockets_of[credential]:
                socket.on_recheck(socket, actor, readable | (socket.followed.models - followed[credential]))

    async def _refresh(self) -> None:
        for socket in self._sockets:
            socket.outbox.refresh()


_hubs: WeakKeyDictionary[asyncio.AbstractEventLoop, Hub] = WeakKeyDictionary()


def current_hub() -> Hub:
    """The hub of the running event loop."""
    return _hubs.setdefault(asyncio.get_running_loop(), Hub())
