"""Wakes the agent when Postgres notifies a change of its tables. A missed notification costs one slow tick."""

import logging
import threading
from collections.abc import Callable

import psycopg
from django.db import connection

from core.notify import CHANNEL
from core.periodic import LoopSeverity, Periodic
from inference.models import ENGINES_CHANGED
from node_agent import extra_workloads

logger = logging.getLogger(__name__)

INSTANCE_TABLE = "inference_instance"
RETRY_INTERVAL = 2.0
LISTEN_TIMEOUT = 1.0


class ChangeListener(threading.Thread):
    def __init__(self, wake: Callable[[], None]):
        super().__init__(name="agent-listener", daemon=True)
        self._wake = wake
        self._loop = Periodic("agent listener", LoopSeverity.MEDIUM, LISTEN_TIMEOUT)
        self._stopping = threading.Event()

    def stop(self) -> None:
        self._stopping.set()

    def run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._listen()
            except psycopg.Error as error:
                logger.debug("listener: %s", type(error).__name__)
                self._stopping.wait(RETRY_INTERVAL)

    def _listen(self) -> None:
        parameters = connection.get_connection_params()
        parameters.pop("cursor_factory", None)
        parameters.pop("context", None)
        with psycopg.connect(**parameters, autocommit=True) as link:
            link.execute(f"LISTEN {CHANNEL}")
            while not self._stopping.is_set():
                with self._loop.turn():
                    for notice in link.notifies(timeout=LISTEN_TIMEOUT, stop_after=1):
                        if notice.payload in {INSTANCE_TABLE, ENGINES_CHANGED, *extra_workloads.watched_tables()}:
                            self._wake()
