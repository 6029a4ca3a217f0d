"""The data plane as `up` runs it, with a hand-made snapshot: python -m benchmarks.target PORT ENGINE_URL KEY FOLDER."""

import gc
import hmac
import sys
from pathlib import Path

import django
import uvicorn
import uvloop

django.setup()

from accounts.policy import Scope  # noqa: E402
from gateway.app import Gateway  # noqa: E402
from gateway.config import GatewayConfig  # noqa: E402
from gateway.metering.meter import Meter  # noqa: E402
from gateway.routing.snapshot import (  # noqa: E402
    Caller,
    InstanceEntry,
    KeyEntry,
    ModelEntry,
    RoutingSnapshot,
    SnapshotSource,
    TenantEntry,
)

OTHER_KEYS = 10_000


class DiscardingStore:
    """A usage store that discards all rows: the journal on disk is measured, Postgres is not."""

    def insert(self, rows) -> None:
        pass

    def touch_keys(self, used) -> None:
        pass

    def close(self) -> None:
        pass


def snapshot(engine: str, key: str, pepper: bytes) -> RoutingSnapshot:
    scopes = frozenset({Scope.READ, Scope.INFERENCE})
    names = [key, *(f"other-{number}" for number in range(OTHER_KEYS))]
    keys = {
        hmac.digest(pepper, name.encode(), "sha256"): KeyEntry(
            Caller("tenant-1", "member", f"key-{name}", scopes=scopes)
        )
        for name in names
    }
    return RoutingSnapshot(
        tenants=[TenantEntry("tenant-1", "bench")],
        keys=keys,
        models=[ModelEntry("model-1", "tenant-1", "bench")],
        instances=[InstanceEntry("instance-1", "model-1", "ready", served_name="bench", endpoint=engine)],
    )


async def serve(port: int, engine: str, key: str, folder: Path) -> None:
    config = GatewayConfig.from_settings()
    first = snapshot(engine, key, config.pepper)
    source = SnapshotSource(first)
    meter = Meter(folder, DiscardingStore())
    gateway = Gateway(source, _no_start, meter, config)
    meter.start()
    gateway.start()
    gc.collect()
    gc.freeze()
    server = uvicorn.Config(
        gateway,
        port=port,
        loop="uvloop",
        http="httptools",
        lifespan="off",
        access_log=False,
        log_level="warning",
        server_header=False,
    )
    await uvicorn.Server(server).serve()
    await gateway.stop()
    meter.stop()


async def _no_start(model_id: str) -> None:
    raise AssertionError(f"{model_id} is running")


if __name__ == "__main__":
    _program, port, engine, key, folder = sys.argv
    uvloop.run(serve(int(port), engine, key, Path(folder)))
