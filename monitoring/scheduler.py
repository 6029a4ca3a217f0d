"""Work by the clock, in a process of its own under an advisory lock. It needs no broker."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from django.db import DatabaseError, InterfaceError, close_old_connections, connection

logger = logging.getLogger(__name__)

LOCK = 0x5E7A1  # the same number in every scheduler
PAUSE = 1.0


@dataclass
class Duty:
    """Something done every `seconds`; `last_error` keeps the class of the latest failure."""

    name: str
    seconds: float
    work: Callable[[], object]
    due: float = 0.0
    last_error: str = ""


class Scheduler:
    """Several may run; the one that holds the lock works, the others wait for it to end."""

    def __init__(self, duties: list[Duty]):
        self._duties = duties
        self._stopping = threading.Event()

    def stop(self) -> None:
        self._stopping.set()

    def run(self) -> None:
        while not self._stopping.is_set():
            try:
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
        now = time.monotonic()
        for duty in self._duties:
            if now >= duty.due:
                duty.due = now + duty.seconds
                self._do(duty)

    def _do(self, duty: Duty) -> None:
        try:
            duty.work()
            duty.last_error = ""
        except DatabaseError as error:
            duty.last_error = type(error).__name__
            logger.exception("scheduler: %s failed", duty.name)
