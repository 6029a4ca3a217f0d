"""The data plane of this process, made from the settings; config/asgi.py sends connections here."""

import asyncio
import gc
from concurrent.futures import ThreadPoolExecutor

from django.conf import settings
from django.db import connection

from core import errors
from gateway.app import Gateway, handles
from gateway.config import GatewayConfig
from gateway.metering.meter import Meter, UsageTable
from gateway.routing.heartbeat import HeartbeatWriter
from gateway.routing.snapshot import SnapshotSource
from gateway.routing.snapshot_refresher import SnapshotRefresher
from inference.serving import services

FIRST_SNAPSHOT_TIMEOUT = 10.0
START_THREADS = 4


class DataPlane:
    """An ASGI application for HTTP and lifespan, which starts and stops what the requests need.

    Under a server without lifespan, such as daphne, the first request starts it.
    """

    handles = staticmethod(handles)

    def __init__(self):
        self._source = SnapshotSource()
        self._gateway: Gateway | None = None
        self.loop: asyncio.AbstractEventLoop | None = None
        self._starting = asyncio.Lock()
        self._threads = ThreadPoolExecutor(START_THREADS, thread_name_prefix="gateway-starts")

    @property
    def can_serve(self) -> bool:
        """Whether its snapshot is fresh. True before the first request, which loads the first snapshot."""
        return self._gateway is None or self._source.is_fresh()

    async def start(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._meter = Meter(settings.SPOOL_DIR, UsageTable())
        gateway = Gateway(self._source, self._request_start, self._meter, GatewayConfig.from_settings())
        self._heartbeat = HeartbeatWriter(gateway.describe)
        await self._heartbeat.write_once()  # before the first route: agents must know every process that may use one
        self._refresher = SnapshotRefresher(self._source, self.loop)
        self._refresher.start()
        await self._source.wait_for_next(FIRST_SNAPSHOT_TIMEOUT)
        self._meter.start()
        gateway.start()
        self._heartbeat.start()
        self._gateway = gateway
        gc.collect()
        gc.freeze()  # objects that exist now stay; the garbage collector need not visit them

    async def stop(self) -> None:
        await self._heartbeat.stop()
        await self._gateway.stop()
        await self.loop.run_in_executor(None, self._refresher.stop)
        await self.loop.run_in_executor(None, self._meter.stop)
        self._threads.shutdown(wait=False)

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        if self._gateway is None:
            async with self._starting:
                if self._gateway is None:
                    await self.start()
        await self._gateway(scope, receive, send)

    async def _lifespan(self, receive, send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await self.start()
                await send({"type": "lifespan.startup.complete"})
            else:
                await self.stop()
                return await send({"type": "lifespan.shutdown.complete"})

    async def _request_start(self, model_id: str) -> None:
        await self.loop.run_in_executor(self._threads, _start_on_demand, model_id)


def _start_on_demand(model_id: str) -> None:
    try:
        services.start_on_demand(model_id)
    except errors.InvalidRequest as error:  # the model's files are wrong, not the request for it
        raise errors.ModelNotRunning(error.message, details={"state": "stopped"}) from None
    finally:
        connection.close()


gateway = DataPlane()
