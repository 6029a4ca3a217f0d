"""The data plane of this process, made from the settings; config/asgi.py sends connections here."""

import asyncio
import gc
from concurrent.futures import ThreadPoolExecutor

from django.conf import settings
from django.db import connection

from core import errors
from core.asgi_server import AsgiScope, Receive, Send
from gateway.app import Gateway, handles
from gateway.config import GatewayConfig
from gateway.metering.meter import Meter, UsageTable
from gateway.routing.heartbeat import HeartbeatWriter
from gateway.routing.snapshot import SnapshotSource
from gateway.routing.snapshot_refresher import SnapshotRefresher
from inference.serving import services

FIRST_SNAPSHOT_TIMEOUT = 10.0
START_THREADS = 4


class RunningDataPlane:
    """The data plane between its start and its end, in one event loop."""

    def __init__(self, source: SnapshotSource, start_threads: ThreadPoolExecutor) -> None:
        self.loop = asyncio.get_running_loop()
        self._source, self._start_threads = source, start_threads
        self._meter = Meter(settings.SPOOL_DIR, UsageTable())
        self.gateway = Gateway(source, self._request_start, self._meter, GatewayConfig.from_settings())
        self._heartbeat = HeartbeatWriter(self.gateway.describe)
        self._refresher = SnapshotRefresher(source, self.loop)

    async def start(self) -> None:
        await self._heartbeat.write_once()  # before the first route: agents must know every process that may use one
        self._refresher.start()
        await self._source.wait_for_next(FIRST_SNAPSHOT_TIMEOUT)
        self._meter.start()
        self.gateway.start()
        self._heartbeat.start()

    async def stop(self) -> None:
        await self._heartbeat.stop()
        await self.gateway.stop()
        await self.loop.run_in_executor(None, self._refresher.stop)
        await self.loop.run_in_executor(None, self._meter.stop)

    async def _request_start(self, model_id: str) -> None:
        await self.loop.run_in_executor(self._start_threads, _start_on_demand, model_id)


class DataPlane:
    """An ASGI application for HTTP and lifespan, which starts and stops what the requests need.

    Under a server without lifespan, such as daphne, the first request starts it.
    """

    handles = staticmethod(handles)

    def __init__(self) -> None:
        self._source = SnapshotSource()
        self._running: RunningDataPlane | None = None
        self._starting = asyncio.Lock()
        self._threads = ThreadPoolExecutor(START_THREADS, thread_name_prefix="gateway-starts")

    @property
    def can_serve(self) -> bool:
        """Whether its snapshot is fresh. True before the first request, which loads the first snapshot."""
        return self._running is None or self._source.is_fresh()

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The loop that its requests run in, once it has started."""
        return self._running.loop if self._running else None

    async def start(self) -> RunningDataPlane:
        """Start it, unless it runs."""
        async with self._starting:
            if self._running is None:
                starting = RunningDataPlane(self._source, self._threads)
                await starting.start()
                self._running = starting
                gc.collect()
                gc.freeze()  # objects that exist now stay; the garbage collector need not visit them
            return self._running

    async def stop(self) -> None:
        if self._running:
            await self._running.stop()
        self._threads.shutdown(wait=False)

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self._lifespan(receive, send)
        running = self._running or await self.start()
        await running.gateway(scope, receive, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await self.start()
                await send({"type": "lifespan.startup.complete"})
            else:
                await self.stop()
                return await send({"type": "lifespan.shutdown.complete"})


def _start_on_demand(model_id: str) -> None:
    try:
        services.start_on_demand(model_id)
    except errors.InvalidRequest as error:  # the model's files are wrong, not the request for it
        raise errors.ModelNotRunning(error.message, details={"state": "stopped"}) from None
    finally:
        connection.close()


gateway = DataPlane()
