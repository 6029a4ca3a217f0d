"""Work by the clock, in a process of its own under an advisory lock. It needs no broker."""

import logging
import threading
import time
from collections.abc import Callable

from django.db import DatabaseError, InterfaceError, close_old_connections, connection

from core.periodic import Level, Periodic

logger = logging.getLogger(__name__)

LOCK = 0x5E7A1  # the same number in every scheduler
PAUSE = 1.0


class Duty:
    """Something done every `seconds`."""

    def __init__(self, name: str, seconds: float, work: Callable[[], object], level: Level = Level.MEDIUM):
        self.loop = Periodic(name, level, seconds)
        self._work = work
        self._due = 0.0

    def do_if_due(self) -> None:
        now = time.monotonic()
        if now < self._due:
            return
        self._due = now + self.loop.interval
        with self.loop.turn():
            self._work()


class Scheduler:
    """Several may run; the one that holds the lock works, the others wait for it to end."""

    def __init__(self, duties: list[Duty]):
        self._duties = duties
        self._loop = Periodic("scheduler", Level.CRITICAL, PAUSE)
        self._stopping = threading.Event()

    def stop(self) -> None:
        self._stopping.set()

    def run(self) -> None:
        while not self._stopping.is_set():
            try:
                with self._loop.turn():
                    self._work_if_first()
            except (DatabaseError, InterfaceError) as error:
                logger.warning("scheduler: the database is away (%s)", type(error).__name__)
                close_old_connections()
            self._stopping.wait(PAUSE)

    def _work_if_first(self) -> None:
        """The lock belongs to the connection: it is gone when the connection or the process is."""
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_try_advisory_lock(%s)", [LOCK])
            if not cursor.fetchone()[0]:
                return
        try:
            self._work()
        finally:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_unlock(%s)", [LOCK])

    def _work(self) -> None:
        for duty in self._duties:
            try:
                duty.do_if_due()
            except DatabaseError:
                logger.exception("scheduler: %s failed", duty.loop.name)
