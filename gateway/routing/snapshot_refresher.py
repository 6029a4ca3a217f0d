"""Keeps the snapshot up to date: listens for Postgres's notifications and reads the parts that they concern.

A thread with one connection of its own listens on channel `serai`. Notifications are collected for 50 ms;
every ten seconds everything is read anyway, so a lost one does no lasting harm.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVarTuple

import psycopg
from django.db import connections

from core.notify import CHANNEL
from core.periodic import LoopSeverity, Periodic
from gateway.routing import snapshot_loader
from gateway.routing.snapshot import RoutingSnapshot, SnapshotSource

logger = logging.getLogger(__name__)

DEBOUNCE_INTERVAL, RELOAD_INTERVAL, POLL_INTERVAL = 0.05, 10.0, 0.5
RETRY_INTERVALS = (0.5, 1.0, 2.0, 5.0)
Arguments = TypeVarTuple("Arguments")

NOT_FOR_PSYCOPG = ("context", "cursor_factory")  # Django's own adaptation would leave JSON as text


def connect() -> psycopg.Connection:
    parameters = connections["default"].get_connection_params()
    for name in NOT_FOR_PSYCOPG:
        parameters.pop(name, None)
    return psycopg.connect(**parameters, autocommit=True)


class SnapshotRefresher(threading.Thread):
    """Publishes to `source` on `loop` until `stop`."""

    def __init__(self, source: SnapshotSource, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(name="snapshot-refresher", daemon=True)
        self._source, self._loop = source, loop
        self._turns = Periodic("snapshot refresher", LoopSeverity.CRITICAL, POLL_INTERVAL)
        self._ending = threading.Event()
        self._parts: dict[str, Any] = {}  # arguments of RoutingSnapshot, each of its own type

    def stop(self, timeout: float = 2.0) -> None:
        self._ending.set()
        self.join(timeout)

    def run(self) -> None:
        failures = 0
        while not self._ending.is_set():
            try:
                with connect() as connection:
                    connection.execute(f"LISTEN {CHANNEL}")
                    self._load(connection, set(snapshot_loader.PART_READERS))
                    failures = 0
                    self._watch(connection)
            except psycopg.Error as error:
                logger.warning("the snapshot cannot be refreshed: %s", type(error).__name__)
                self._ending.wait(RETRY_INTERVALS[min(failures, len(RETRY_INTERVALS) - 1)])
                failures += 1

    def _watch(self, connection: psycopg.Connection) -> None:
        loaded_at = time.monotonic()
        while not self._ending.is_set():
            with self._turns.turn():
                changed = self._changed_parts(connection)
                if time.monotonic() - loaded_at > RELOAD_INTERVAL:
                    changed = set(snapshot_loader.PART_READERS)
                    loaded_at = time.monotonic()
                if changed:
                    self._load(connection, changed)
        self._turns.end()

    def _changed_parts(self, connection: psycopg.Connection) -> set[str]:
        """The parts whose tables changed; after the first notification, more are collected for a moment."""
        tables = {notice.payload for notice in connection.notifies(timeout=POLL_INTERVAL, stop_after=1)}
        if tables:
            self._call_in_loop(self._source.expect)
            tables |= {notice.payload for notice in connection.notifies(timeout=DEBOUNCE_INTERVAL)}
        return set().union(*(snapshot_loader.PARTS_BY_TABLE.get(table, ()) for table in tables))

    def _load(self, connection: psycopg.Connection, parts: set[str]) -> None:
        with connection.transaction():
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            for part in parts:
                self._parts[part] = snapshot_loader.PART_READERS[part](connection.execute)
        self._call_in_loop(self._source.publish, RoutingSnapshot(**self._parts))

    def _call_in_loop(self, callback: Callable[[*Arguments], object], *arguments: *Arguments) -> None:
        with suppress(RuntimeError):  # the loop is closed: the process is stopping
            self._loop.call_soon_threadsafe(callback, *arguments)
