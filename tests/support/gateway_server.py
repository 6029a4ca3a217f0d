"""The data plane without Postgres: a hand-made snapshot, a real uvicorn, and fake engines on Unix sockets."""

import asyncio
import hmac
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import httpx
import uvicorn

from accounts.policy import Scope
from gateway.app import Gateway
from gateway.config import GatewayConfig
from gateway.metering.meter import RequestRecord
from gateway.routing.snapshot import (
    Caller,
    InstanceEntry,
    KeyEntry,
    ModelEntry,
    RoutingSnapshot,
    SnapshotSource,
    TenantEntry,
)
from tests.fakes import FAKE_ENGINE
from tests.support.waiting import eventually

PEPPER = b"pepper of the tests"
# connecting may take long on a machine that is busy with other tests
CONFIG = GatewayConfig(pepper=PEPPER, salt_key=b"salt of the tests", connect_timeout=30)
ALICE, MALLORY = "sk-serai-alice", "sk-serai-mallory"
MODEL = ModelEntry("model-1", "tenant-a", "demo", ("also-demo", "team/demo"), created=1_700_000_000, context=4096)
TENANTS = [TenantEntry("tenant-a", "acme"), TenantEntry("tenant-m", "mall")]


def key(secret: str, tenant_id: str, **fields) -> tuple[bytes, KeyEntry]:
    scopes = fields.pop("scopes", frozenset({Scope.READ, Scope.INFERENCE}))
    principal = Caller(tenant_id, "member", key_id=f"key-{secret}", scopes=scopes, **fields)
    return hmac.digest(PEPPER, secret.encode(), "sha256"), KeyEntry(principal)


def snapshot(
    *instances: InstanceEntry, models=(MODEL,), keys=(), tenants=TENANTS, users=(), adapters=()
) -> RoutingSnapshot:
    known = dict([key(ALICE, "tenant-a"), key(MALLORY, "tenant-m"), *keys])
    return RoutingSnapshot(
        tenants=tenants, keys=known, users=users, models=models, instances=instances, adapters=adapters
    )  # fmt: skip


def instance(endpoint: str, number: int = 1, **fields) -> InstanceEntry:
    entry = InstanceEntry(f"instance-{number}", MODEL.id, "ready", served_name="demo", endpoint=endpoint)
    return replace(entry, **fields)


class RecordSink(list):
    """A sink that keeps the finished records in order."""

    def __init__(self):
        super().__init__()
        self.admitted: list[str] = []

    def admit(self, record: RequestRecord) -> None:
        self.admitted.append(record.request_id)

    def finish_usage(self, record: RequestRecord) -> None:
        self.append(record)

    def wait(self, count: int = 1) -> list[RequestRecord]:
        eventually(lambda: len(self) >= count)
        return list(self)


class EngineProcess:
    """A fake engine in its own process, which is killed with its folder at the latest."""

    all: ClassVar[list["EngineProcess"]] = []

    def __init__(self, folder: Path, runner: str = "generate", **switches):
        self.all.append(self)
        self.socket = folder / f"{os.urandom(4).hex()}.sock"
        self.endpoint = f"unix://{self.socket}"
        self._runner, self._switches = runner, switches
        self.start()

    def start(self) -> None:
        self.socket.unlink(missing_ok=True)
        command = [sys.executable, "-S", str(FAKE_ENGINE), "--uds", str(self.socket), "--served-model-name", "demo"]
        command += ["--runner", self._runner, *(["--enable-lora"] if self._runner == "generate" else [])]
        environment = {**os.environ, "FAKE_ENGINE": json.dumps(self._switches)}
        self.process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        eventually(self._answers)

    def _answers(self) -> bool:
        try:
            return self.get("/health").status_code == 200
        except httpx.TransportError:
            return False

    def get(self, path: str) -> httpx.Response:
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(self.socket)), base_url="http://engine") as client:
            return client.get(path)

    def load(self, version: str, folder: Path) -> None:
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(self.socket)), base_url="http://engine") as client:
            body = {"lora_name": version, "lora_path": str(folder)}
            assert client.post("/v1/load_lora_adapter", json=body).status_code == 200

    def metric(self, name: str) -> float:
        line = next(line for line in self.get("/metrics").text.splitlines() if line.startswith(f"vllm:{name}{{"))
        return float(line.rpartition(" ")[2])

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)


@contextmanager
def engine_folder() -> Iterator[Path]:
    """A folder with a short path: a socket's path may have about 100 characters."""
    with tempfile.TemporaryDirectory(prefix="sg") as folder:
        try:
            yield Path(folder)
        finally:
            for engine in EngineProcess.all:
                if engine.socket.parent == Path(folder):
                    engine.kill()


class GatewayServer:
    """A gateway under uvicorn in a thread; `starts` are the models whose start was requested."""

    def __init__(self, first: RoutingSnapshot | None, config: GatewayConfig = CONFIG, verify=None):
        self.ledger, self.starts = RecordSink(), []
        self.on_start: Callable[[str], None] = lambda model_id: None
        self._first, self._config, self._verify = first, config, verify
        options = {"loop": "uvloop", "http": "httptools", "interface": "asgi3", "log_level": "warning"}
        options["timeout_graceful_shutdown"] = 3
        self._server = uvicorn.Server(uvicorn.Config(self._app, host="127.0.0.1", port=0, **options))
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        eventually(lambda: self._server.started)
        self.port = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    async def _app(self, scope, receive, send) -> None:
        if scope["type"] != "lifespan":
            return await self.gateway(scope, receive, send)
        await receive()
        self.loop = asyncio.get_running_loop()
        self.source = SnapshotSource(self._first)
        more = {"verify": self._verify} if self._verify else {}
        self.gateway = Gateway(self.source, self._request_start, self.ledger, self._config, **more)
        self.gateway.start()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.gateway.stop()
        await send({"type": "lifespan.shutdown.complete"})

    async def _request_start(self, model_id: str) -> None:
        self.starts.append(model_id)
        self.on_start(model_id)

    def publish(self, new: RoutingSnapshot) -> None:
        self.loop.call_soon_threadsafe(self.source.publish, new)

    def client(self, secret: str | None = ALICE, **options) -> httpx.Client:
        headers = {"authorization": f"Bearer {secret}"} if secret else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=30, **options)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(20)


@contextmanager
def served(first: RoutingSnapshot | None, config: GatewayConfig = CONFIG, verify=None) -> Iterator[GatewayServer]:
    server = GatewayServer(first, config, verify)
    try:
        yield server
    finally:
        server.stop()


def chat(text: str = "hello", **fields) -> dict:
    return {"model": "demo", "messages": [{"role": "user", "content": text}], **fields}
