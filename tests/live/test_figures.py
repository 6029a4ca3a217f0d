"""The monitoring examples of the service document against the running product, under load and through outages."""

import json
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import psutil
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.live.test_draining import frozen, postgres_processes
from tests.live.test_lifecycle import chat
from tests.support.live_product import running
from tests.support.waiting import eventually

METRICS, PERFORMANCE = "/api/monitoring/metrics", "/api/monitoring/performance"
LONG = 90  # seconds that anything here may take on a busy machine


@pytest.fixture(scope="module")
def watched():
    """A product of its own, which samples every second."""
    with tempfile.TemporaryDirectory(prefix="figures-") as folder, running(Path(folder) / "data") as started:
        reply = started.operator.put("/api/config", json={"gpu_monitor_interval": 1})
        assert reply.status_code == 200, reply.text
        eventually(
            lambda: started.operator.get("/api/system/status").json()["resources"]["cpu_percent"] is not None, LONG
        )
        yield started


def _sampled(operator) -> bool:
    return operator.get("/api/system/status").json()["resources"]["cpu_percent"] is not None


@pytest.fixture(scope="module")
def tenant(watched):
    return watched.tenant("acme")


@pytest.fixture(scope="module")
def key(tenant):
    return tenant.key()


@pytest.fixture
def operator(watched):
    return watched.operator


def performance(person, model: str) -> dict:
    (found,) = person.get(PERFORMANCE, params={"model_id": model, "time_range": "1h"}).json()["models"]
    return found


def points(person, **query) -> list[dict]:
    return person.get(METRICS, params=query).json()["metrics"]


def process_of(product, *words: str) -> psutil.Process | None:
    """The product's process with these words in its command line; None while there is none."""
    for child in psutil.Process(product.process.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if all(any(word in part for part in child.cmdline()) for word in words):
                return child
    return None


def test_the_examples_of_the_document_are_answered(operator):
    status = operator.get("/api/system/status").json()
    assert {"status", "version", "uptime", "models", "resources", "gpu"} <= status.keys()
    assert status["status"] == "healthy"
    assert all(0 <= status["resources"][name] <= 100 for name in ("cpu_percent", "memory_percent", "disk_percent"))
    assert isinstance(operator.get("/api/system/gpu").json()["gpus"], list)
    (point, *_more) = eventually(lambda: points(operator), LONG)
    assert {"timestamp", "gpu_utilization", "gpu_memory_used", "cpu_percent", "memory_percent"} <= point.keys()
    now = datetime.now(UTC)
    query = {"start_time": (now - timedelta(hours=1)).isoformat(), "end_time": now.isoformat(), "metric_type": "cpu"}
    assert points(operator, **query, interval="1m")[-1]["cpu_percent"] > 0
    answer = operator.get(PERFORMANCE, params={"time_range": "24h"}).json()
    assert (answer["time_range"], answer["models"]) == ("24h", [])
    assert operator.get("/metrics").text.startswith("# HELP serai_")


def test_the_figures_move_under_load(tenant, key, operator):
    model = tenant.fake_model()
    with ThreadPoolExecutor(4) as pool:
        replies = list(pool.map(lambda _: chat(key, model, "[[token_interval=0.05]] hello"), range(12)))
    answered = sum(reply.status_code == 200 for reply in replies)
    tokens = sum(reply.json()["usage"]["completion_tokens"] for reply in replies if reply.status_code == 200)
    assert answered == 12
    found = eventually(lambda: _of_all(performance(key, model), 12), LONG)
    assert (found["successful_requests"], found["failed_requests"]) == (12, 0)
    assert found["completion_tokens"] == tokens
    assert 0 < found["min_response_time"] <= found["p50_response_time"] <= found["p99_response_time"]
    labels = operator.get(f"/api/models/{model}", headers={"Serai-Tenant": tenant.slug}).json()["id"]
    exposed = operator.get("/metrics").text
    assert f'serai_requests_total{{model="{labels}"' in exposed
    assert eventually(lambda: f'model="{labels}",replica="0"' in operator.get("/metrics").text, LONG)
    assert sum(point["requests"] or 0 for point in points(key, metric_type="model")) == 12


def _of_all(found: dict, requests: int) -> dict | None:
    return found if found["total_requests"] == requests else None


def test_strangers_and_viewers_see_what_is_theirs(watched, tenant, key):
    model = tenant.fake_model()
    chat(key, model).raise_for_status()
    eventually(lambda: performance(key, model)["total_requests"] == 1, LONG)
    stranger, viewer = watched.tenant("globex").person("owner"), tenant.person("viewer")
    assert stranger.get(PERFORMANCE, params={"model_id": model}).status_code == 404
    assert stranger.get(PERFORMANCE).json()["models"] == []
    assert performance(viewer, model)["total_requests"] == 1
    assert points(stranger, metric_type="cpu")
    for person in (stranger, viewer):
        assert person.get("/api/system/gpu").status_code == 403
        assert person.get("/metrics").status_code == 403


class SocketListener:
    """What an open socket was last told of each kind."""

    def __init__(self, ws):
        self._ws = ws
        self.latest: dict[str, dict] = {}
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        with suppress(ConnectionClosed):
            for text in self._ws:
                message = json.loads(text)
                self.latest[message["type"]] = message.get("data")

    def figures_after(self, moment: datetime) -> bool:
        told = self.latest.get("host_metrics_update")
        return bool(told) and datetime.fromisoformat(told["timestamp"]) > moment


@pytest.fixture
def listener(watched, operator):
    """Opened once, and never again."""
    headers = {"Authorization": f"Bearer {operator.credential}"}
    with connect(watched.base_url.replace("http", "ws", 1) + "/ws/monitor", additional_headers=headers) as ws:
        ws.send(json.dumps({"action": "subscribe", "events": ["gpu_metrics", "model_status"]}))
        yield SocketListener(ws)


def test_no_gap_is_left_by_outages_of_valkey_postgres_and_scheduler(watched, tenant, key, operator, listener):
    """Postgres is away for longer than a whole minute, of which nothing could be written while it lasted."""
    model, asked = tenant.fake_model(), 0
    began = datetime.now(UTC)

    def send_requests(times: int) -> int:
        return sum(chat(key, model).status_code == 200 for _ in range(times))

    asked += send_requests(3)
    for words in (("manage.py", "scheduler"), ("valkey-server",)):
        process_of(watched, *words).kill()
        asked += send_requests(3)
        eventually(lambda words=words: process_of(watched, *words), LONG)
        moment = datetime.now(UTC)
        eventually(lambda moment=moment: listener.figures_after(moment), LONG)
    eventually(lambda: datetime.now(UTC).second >= 55, 70)
    with frozen(postgres_processes(watched)):
        lost = _minute(datetime.now(UTC)) + timedelta(minutes=1)
        asked += send_requests(3)  # the data plane serves on
        eventually(lambda: datetime.now(UTC) > lost + timedelta(seconds=62), 100)
    moment = datetime.now(UTC)
    assert asked == 12
    eventually(lambda: _answers(key), LONG)
    eventually(lambda: listener.figures_after(moment), LONG)
    eventually(lambda: performance(key, model)["total_requests"] == asked, LONG)
    minutes = eventually(lambda: _minutes_with(lost, operator, began), LONG)
    assert {after - before for before, after in zip(minutes, minutes[1:], strict=False)} == {timedelta(minutes=1)}


def _minute(moment: datetime) -> datetime:
    return moment.replace(second=0, microsecond=0)


def _minutes_with(wanted: datetime, operator, began: datetime) -> list[datetime] | None:
    """The minutes that have figures, once the wanted one is among them."""
    query = {"start_time": began.isoformat(), "metric_type": "cpu", "interval": "1m"}
    minutes = [datetime.fromisoformat(point["timestamp"]) for point in points(operator, **query)]
    return minutes if wanted in minutes else None


def _answers(person) -> bool:
    try:
        return person.get("/health").status_code == 200
    except httpx.TransportError:
        return False
