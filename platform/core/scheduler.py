"""Runs periodic jobs in a process of its own, under a Postgres advisory lock. It needs no broker."""

import logging
import threading
import time
from collections.abc import Callable

from django.db import DatabaseError, InterfaceError, close_old_connections, connection

from core.periodic import LoopSeverity, Periodic

logger = logging.getLogger(__name__)

ADVISORY_LOCK = 0x5E7A1  # the same number in every scheduler
TICK_INTERVAL = 1.0


class ScheduledJob:
    """A job that runs every `seconds`."""

    def __init__(
        self, name: str, seconds: float, work: Callable[[], object], level: LoopSeverity = LoopSeverity.MEDIUM
    ):
        self.loop = Periodic(name, level, seconds)
        self._work = work
        self._due_at = 0.0

    def run_if_due(self) -> None:
        now = time.monotonic()
        if now < self._due_at:
            return
        self._due_at = now + self.loop.interval
        with self.loop.turn():
            self._work()


class Scheduler:
    """Several may run. The one that holds the lock works; the others wait until it ends."""

    def __init__(self, jobs: list[ScheduledJob]):
        self._jobs = jobs
        self._loop = Periodic("scheduler", LoopSeverity.CRITICAL, TICK_INTERVAL)
        self._stopping = threading.Event()

    def stop(self) -> None:
        self._stopping.set()

    def run(self) -> None:
        while not self._stopping.is_set():
            try:
                with self._loop.turn():
                    self._work_if_locked()
            except (DatabaseError, InterfaceError) as error:
                logger.warning("scheduler: the database is away (%s)", type(error).__name__)
                close_old_connections()
            self._stopping.wait(TICK_INTERVAL)

    def _work_if_locked(self) -> None:
        """The lock belongs to the connection: Postgres releases it when the connection or the process ends."""
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_try_advisory_lock(%s)", [ADVISORY_LOCK])
            if not cursor.fetchone()[0]:
                return
        try:
            self._work()
        finally:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_unlock(%s)", [ADVISORY_LOCK])

    def _work(self) -> None:
        for job in self._jobs:
            try:
                job.run_if_due()
            except DatabaseError:
                logger.exception("scheduler: %s failed", job.loop.name)
