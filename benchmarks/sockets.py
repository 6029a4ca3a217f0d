"""The cost of many sockets: events are published at a steady rate; each socket measures their delay.

Needs a running product: connects to its public address and publishes through its Valkey. Times in milliseconds.
"""

import asyncio
import json
import statistics
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from django.conf import settings
from django.db import DatabaseError
from websockets.asyncio.client import ClientConnection, connect

from accounts import keys
from accounts.models import ApiKey
from benchmarks import CannotMeasure
from core import events

COLUMNS = {"p50_ms": "p50 ms", "p99_ms": "p99 ms", "goal_p99_ms": "goal p99 ms", "heard_share": "heard"}
EVENT = "model_status_update"
MAX_CONNECTING = 50
DRAIN_SECONDS = 2.0  # for events still in flight when the last one is sent


@dataclass(frozen=True)
class SocketScenario:
    sockets: int
    per_second: int
    goal_p99: float

    def __str__(self):
        return f"{self.sockets} x {self.per_second}/s"


SCENARIOS = [SocketScenario(1000, 1, 1000.0), SocketScenario(200, 10, 500.0)]


@dataclass
class DelayListener:
    """The delays at one socket, in ms; `run` ends with the connection."""

    delays: list[float] = field(default_factory=list)

    async def run(self, socket: ClientConnection) -> None:
        async for message in socket:
            data = json.loads(message).get("data") or {}
            if sent_at := data.get("sent_at"):
                self.delays.append((time.monotonic() - sent_at) * 1000)


async def measure(scenario: SocketScenario, *, address: str, key: str, audience: str, seconds: float) -> dict:
    """`address` is host:port, `audience` the id of the key's tenant."""
    listeners = [DelayListener() for _socket in range(scenario.sockets)]
    async with AsyncExitStack() as stack:
        gate = asyncio.Semaphore(MAX_CONNECTING)
        sockets = await asyncio.gather(*(_open(stack, gate, address, key) for _listener in listeners))
        tasks = [asyncio.create_task(one.run(socket)) for one, socket in zip(listeners, sockets, strict=True)]
        sent = await asyncio.to_thread(_publish, scenario.per_second, audience, seconds)
        await asyncio.sleep(DRAIN_SECONDS)
        for task in tasks:
            task.cancel()
    delays = sorted(delay for listener in listeners for delay in listener.delays)
    return {
        "p50_ms": statistics.median(delays),
        "p99_ms": delays[int(len(delays) * 0.99)],
        "goal_p99_ms": scenario.goal_p99,
        "heard_share": len(delays) / (sent * scenario.sockets),
    }


async def _open(stack: AsyncExitStack, gate: asyncio.Semaphore, address: str, key: str) -> ClientConnection:
    opening = connect(
        f"ws://{address}/ws/monitor",
        additional_headers={"Authorization": f"Bearer {key}"},
        compression=None,
        open_timeout=60,
    )
    async with gate:
        socket = await stack.enter_async_context(opening)
        await socket.send(json.dumps({"action": "subscribe", "events": ["model_status"]}))
        await socket.recv()
    return socket


def _publish(per_second: int, audience: str, seconds: float) -> int:
    """One object per event, so that none replaces another. Returns how many were sent."""
    begun, total = time.monotonic(), int(per_second * seconds)
    for number in range(total):
        time.sleep(max(0.0, begun + number / per_second - time.monotonic()))
        model = f"bench-{number}"
        events.publish_now(
            [audience], EVENT, model, {"model_id": model, "status": "running", "sent_at": time.monotonic()}, model
        )
    return total


def run(*, seconds: float, rounds: int, report: Callable[[str], None]) -> dict:
    """Medians over `rounds`. Raises CannotMeasure if no product runs on this data folder."""
    address, key, audience = _find_product()
    results = {}
    for scenario in SCENARIOS:
        figures = []
        for number in range(rounds):
            report(f"sockets {scenario}: {number + 1} of {rounds} …")
            measuring = measure(scenario, address=address, key=key, audience=audience, seconds=seconds)
            figures.append(asyncio.run(measuring))
        medians = {column: statistics.median(row[column] for row in figures) for column in COLUMNS}
        results[str(scenario)] = {"sockets": medians}
    ratios = {name: round(row["sockets"]["p99_ms"] / row["sockets"]["goal_p99_ms"], 3) for name, row in results.items()}
    return {"scenarios": results, "ratios": {"p99_to_goal": ratios}}


def _find_product() -> tuple[str, str, str]:
    """Address, key and tenant id of the product that runs on this data folder."""
    try:
        record = json.loads((settings.DATA_DIR / "first-run.json").read_text())
        key = ApiKey.objects.get(digest=keys.digest(record["api_key"]))
    except (OSError, DatabaseError, ApiKey.DoesNotExist):
        raise CannotMeasure("Sockets are measured on a running product: python3 manage.py up.") from None
    return record["base_url"].removeprefix("http://"), record["api_key"], key.tenant_id
