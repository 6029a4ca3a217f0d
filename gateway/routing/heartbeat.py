"""Reports the requests in flight to the agents every second: they stop an engine only when none uses it."""

import asyncio
import logging
import os
import socket
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime

from django.db import DatabaseError, close_old_connections, connection
from django.db.utils import InterfaceError

from core import process_identity
from core.periodic import LoopSeverity, Periodic
from gateway.json_types import JsonObject
from inference.models import GatewayHeartbeat

logger = logging.getLogger(__name__)

HEARTBEAT_INTERVAL = 1.0
DELETE_TIMEOUT = 3.0
UPDATE_FIELDS = ["beat_at", "routes", "inflight", "idle", "waiting", "adapters"]


class HeartbeatWriter:
    """Writes the fields that `describe` returns until `stop`. An outage of Postgres is only logged."""

    def __init__(self, describe: Callable[[], JsonObject]) -> None:
        self._describe = describe
        self._loop = Periodic("gateway heartbeat", LoopSeverity.CRITICAL, HEARTBEAT_INTERVAL)
        self._id = uuid.uuid4()
        self._process = {"host": socket.gethostname(), "pid": os.getpid(), "process": process_identity.identity()}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="gateway-heartbeat")
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        self._loop.end()
        if self._task:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        loop = asyncio.get_running_loop()
        with suppress(TimeoutError):
            await asyncio.wait_for(loop.run_in_executor(self._thread, self._delete_row), DELETE_TIMEOUT)
        self._thread.shutdown(wait=False)

    async def _run(self) -> None:
        while True:
            with self._loop.turn():
                await self.write_once()
            await asyncio.sleep(HEARTBEAT_INTERVAL)

    async def write_once(self) -> None:
        """The time is read before the state: a heartbeat must never claim to include what happened later."""
        loop = asyncio.get_running_loop()
        try:
            at = await loop.run_in_executor(self._thread, self._read_clock)
            await loop.run_in_executor(self._thread, self._write, at, self._describe())
        except (DatabaseError, InterfaceError) as error:
            logger.warning("heartbeat not written: %s", type(error).__name__)

    def _read_clock(self) -> datetime:
        """The database's clock, which all agents compare it with."""
        close_old_connections()
        with connection.cursor() as cursor:
            cursor.execute("SELECT clock_timestamp()")
            now: datetime = cursor.fetchone()[0]
            return now

    def _write(self, at: datetime, state: JsonObject) -> None:
        row = GatewayHeartbeat(id=self._id, beat_at=at, **self._process, **state)
        GatewayHeartbeat.objects.bulk_create(
            [row], update_conflicts=True, unique_fields=["id"], update_fields=UPDATE_FIELDS
        )

    def _delete_row(self) -> None:
        with suppress(DatabaseError, InterfaceError):
            GatewayHeartbeat.objects.filter(pk=self._id).delete()
        connection.close()
