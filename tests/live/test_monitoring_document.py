"""The service document's monitoring, configuration and WebSocket sections, example by example."""

import json
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from tests.support.browser_page import browser, needs_chromium
from tests.support.waiting import eventually

LONG = 60  # seconds that anything here may take on a busy machine
SOON = 20  # what should take five
CONFIG, HISTORY = "/api/config", "/api/config/history"
METRICS, PERFORMANCE = "/api/monitoring/metrics", "/api/monitoring/performance"
SUBSCRIBE = {"action": "subscribe", "events": ["model_status", "gpu_metrics", "system_alerts"]}
CHANGE = {
    "gpu_monitor_interval": 60,
    "max_concurrent_models": 15,
    "alert_thresholds": {"gpu_utilization_high": 85, "gpu_temperature_high": 75},
}
IN_BROWSER = """
([address, ticket]) => new Promise((resolve, reject) => {
    const ws = new WebSocket(`${address}?ticket=${ticket}`);
    const heard = [];
    ws.onopen = () => ws.send(JSON.stringify({
      "action": "subscribe",
      "events": ["model_status", "gpu_metrics", "system_alerts"]
    }));
    ws.onmessage = (message) => {
        heard.push(JSON.parse(message.data));
        if (heard.some((event) => event.type === "model_status_update")) { ws.close(); resolve(heard); }
    };
    ws.onclose = (event) => reject(new Error(`closed: ${event.code}`));
})
"""


@pytest.fixture
def configuration(operator):
    """The configuration as it was is put back."""
    before = operator.get(CONFIG).json()
    yield before
    assert operator.put(CONFIG, json=before).status_code == 200


def address_of(product) -> str:
    return product.base_url.replace("http", "ws", 1) + "/ws/monitor"


@contextmanager
def socket_of(product, person, **options):
    headers = {"Authorization": f"Bearer {person.credential}"}
    with connect(address_of(product), additional_headers=headers, **options) as ws:
        yield ws


def send_message(ws, message: dict) -> dict:
    ws.send(json.dumps(message))
    return receive_message(ws)


def receive_message(ws) -> dict:
    return json.loads(ws.recv(timeout=LONG))


def next_of_kind(ws, kind: str) -> dict:
    """The next event of this kind; others are passed over."""
    while (event := receive_message(ws))["type"] != kind:
        pass
    return event["data"]


def epoch(timestamp: str) -> float:
    return datetime.fromisoformat(timestamp).timestamp()


# --- system and monitoring


def test_the_system_status(operator, viewer):
    for person in (operator, viewer):
        answer = eventually(lambda person=person: _sampled(person), LONG)
        assert (answer["status"], answer["version"]) == ("healthy", "1.0.0")
        assert answer["uptime"] >= 0
        assert {"total", "running", "stopped", "error"} <= answer["models"].keys()
        assert all(isinstance(count, int) for count in answer["models"].values())
        assert answer["resources"].keys() == {"cpu_percent", "memory_percent", "disk_percent"}
        assert all(0 <= percent <= 100 for percent in answer["resources"].values())
        assert isinstance(answer["gpu"], list)


def _sampled(person) -> dict | None:
    answer = person.get("/api/system/status").json()
    return answer if answer["resources"]["cpu_percent"] is not None else None


def test_the_gpus(operator, owner):
    gpus = operator.get("/api/system/gpu").json()["gpus"]
    shown = {
        "id", "name", "driver_version", "cuda_version", "utilization", "memory_used", "memory_total", "memory_free",
        "temperature", "power_usage", "power_limit", "processes",
    }  # fmt: skip
    assert all(shown <= gpu.keys() for gpu in gpus)
    assert owner.get("/api/system/gpu").status_code == 403


@pytest.mark.parametrize("metric_type", ["gpu", "cpu", "memory", "model"])
@pytest.mark.parametrize("interval", ["1m", "5m", "1h", "1d"])
def test_metrics_with_every_parameter(operator, metric_type, interval):
    now = datetime.now(UTC)
    query = {
        "start_time": (now - timedelta(hours=6)).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "end_time": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "metric_type": metric_type,
        "interval": interval,
    }
    reply = operator.get(METRICS, params=query)
    assert (reply.status_code, reply.json()["interval"]) == (200, interval)
    assert {"metrics", "summary"} <= reply.json().keys()


def test_metrics_without_any(viewer):
    (point, *_more) = eventually(lambda: viewer.get(METRICS).json()["metrics"], 2 * LONG)
    assert {"gpu_utilization", "gpu_memory_used", "cpu_percent", "memory_percent"} <= point.keys()
    assert epoch(point["timestamp"]) % 60 == 0 and point["memory_percent"] > 0
    summary = viewer.get(METRICS).json()["summary"]
    assert {"avg_gpu_utilization", "max_gpu_utilization", "avg_response_time"} <= summary.keys()


@pytest.mark.parametrize("time_range", ["1h", "24h", "7d", "30d"])
def test_performance_over_every_range_and_of_one_model(acme, key, time_range):
    name = acme.fake_model()
    model_id = key.get(f"/api/models/{name}").json()["id"]
    answer = key.get(PERFORMANCE, params={"model_id": model_id, "time_range": time_range}).json()
    assert answer["time_range"] == time_range
    (model,) = answer["models"]
    assert (model["model_id"], model["model_name"], model["total_requests"]) == (model_id, name, 0)
    assert model.keys() >= {
        "successful_requests", "failed_requests", "avg_response_time", "max_response_time", "min_response_time",
        "requests_per_second", "error_rate",
    }  # fmt: skip
    assert answer["system"].keys() >= {"avg_cpu_percent", "avg_memory_percent", "avg_gpu_utilization"}


@pytest.mark.parametrize(
    ("path", "query"),
    [
        (METRICS, {"start_time": "yesterday"}), (METRICS, {"end_time": "2024-13-01T00:00:00Z"}),
        (METRICS, {"metric_type": "disk"}), (METRICS, {"interval": "2m"}),
        (METRICS, {"start_time": "2024-01-02T00:00:00Z", "end_time": "2024-01-01T00:00:00Z"}),
        (PERFORMANCE, {"time_range": "2h"}), (PERFORMANCE, {"time_range": "1H"}), (HISTORY, {"setting": "nothing"}),
        (HISTORY, {"page": "0"}), (HISTORY, {"size": "1000"}),
    ],
    ids=str,
)  # fmt: skip
def test_a_wrong_parameter_is_refused(operator, path, query):
    reply = operator.get(path, params=query)
    assert (reply.status_code, reply.json()["error"]["code"]) == (422, "INVALID_REQUEST")


def test_a_foreign_model_has_no_performance(acme, stranger, key):
    name = acme.fake_model()
    model_id = key.get(f"/api/models/{name}").json()["id"]
    assert stranger.get(PERFORMANCE, params={"model_id": model_id}).status_code == 404


# --- configuration


def test_the_configuration_and_its_example_change(operator, configuration):
    assert configuration.keys() == {
        "gpu_monitor_interval", "max_concurrent_models", "default_model_timeout", "health_check_interval", "log_level",
        "alert_thresholds",
    }  # fmt: skip
    assert configuration["alert_thresholds"].keys() == {
        "gpu_utilization_high", "gpu_temperature_high", "response_time_high", "error_rate_high",
    }  # fmt: skip
    reply = operator.put(CONFIG, json=CHANGE)
    assert reply.status_code == 200
    merged = {**configuration["alert_thresholds"], **CHANGE["alert_thresholds"]}
    assert reply.json() == {**configuration, **CHANGE, "alert_thresholds": merged}
    eventually(lambda: operator.get(CONFIG).json() == reply.json(), LONG)
    changes = operator.get(HISTORY).json()["items"][:4]
    assert {change["setting"]: change["new"] for change in changes} == {
        "gpu_monitor_interval": 60, "max_concurrent_models": 15, "alert_thresholds.gpu_utilization_high": 85,
        "alert_thresholds.gpu_temperature_high": 75,
    }  # fmt: skip
    assert {change["actor"] for change in changes} == {"admin"}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"gpu_monitor_interval": 0}, "gpu_monitor_interval"), ({"gpu_monitor_interval": "30"}, "gpu_monitor_interval"),
        ({"max_concurrent_models": 0}, "max_concurrent_models"), ({"log_level": "loud"}, "log_level"),
        ({"default_model_timeout": -1}, "default_model_timeout"),
        ({"health_check_interval": 1e9}, "health_check_interval"),
        ({"alert_thresholds": {"error_rate_high": 2}}, "alert_thresholds.error_rate_high"), ({"other": 1}, "other"),
    ],
    ids=str,
)  # fmt: skip
def test_a_wrong_value_changes_nothing(operator, body, field):
    before = operator.get(CONFIG).json()
    reply = operator.put(CONFIG, json={"health_check_interval": 61, **body})
    assert (reply.status_code, list(reply.json()["error"]["details"])) == (422, [field])
    assert operator.get(CONFIG).json() == before


def test_the_configuration_is_the_operators(owner, key):
    for person in (owner, key):
        assert person.get(CONFIG).status_code == person.get(HISTORY).status_code == 403
        assert person.put(CONFIG, json=CHANGE).status_code == 403


def test_a_changed_interval_is_in_force_at_once(product, operator, configuration):
    """Figures come every second instead of every half minute, on a socket that was open before."""
    with socket_of(product, operator) as ws:
        send_message(ws, {"action": "subscribe", "events": ["gpu_metrics"]})
        operator.put(CONFIG, json={"gpu_monitor_interval": 1})
        seen = {next_of_kind(ws, "host_metrics_update")["timestamp"] for _event in range(12)}
    moments = sorted(map(epoch, seen))
    assert len(moments) >= 4 and min(after - before for before, after in zip(moments, moments[1:], strict=False)) <= 5


# --- sockets


def test_the_example_subscription_and_its_events(product, acme, member):
    name = acme.fake_model()
    model_id = member.get(f"/api/models/{name}").json()["id"]
    with socket_of(product, member) as ws:
        assert send_message(ws, SUBSCRIBE) == {"type": "subscribed", "events": SUBSCRIBE["events"]}
        member.post(f"/api/models/{name}/start")
        while (update := next_of_kind(ws, "model_status_update"))["model_id"] != model_id or update[
            "status"
        ] != "running":
            assert update.keys() == {"model_id", "status", "health", "timestamp"}
        assert update["health"] in ("healthy", "unknown") and update["timestamp"].endswith("Z")
        assert say_until(ws, {**SUBSCRIBE, "action": "unsubscribe"}, "unsubscribed")["events"] == SUBSCRIBE["events"]


def say_until(ws, message: dict, kind: str) -> dict:
    ws.send(json.dumps(message))
    while (reply := receive_message(ws))["type"] != kind:
        pass
    return reply


def test_the_log_of_a_model_is_followed_over_a_reconnect(product, acme, member, stranger):
    name = acme.fake_model()
    member.post(f"/api/models/{name}/start")
    subscription = {"action": "subscribe", "events": ["logs"], "model_id": name}
    with socket_of(product, member) as ws:
        assert send_message(ws, subscription)["type"] == "subscribed"
        first = next_of_kind(ws, "log")
        assert first.keys() == {"model_id", "id", "timestamp", "level", "message", "instance_id", "replica"}
    lines_shown = []
    with socket_of(product, member) as ws:
        send_message(ws, {**subscription, "since": "0-0"})
        lines_shown.append(next_of_kind(ws, "log"))
    with socket_of(product, member) as ws:
        send_message(ws, {**subscription, "since": lines_shown[0]["id"]})
        member.post(f"/api/models/{name}/restart")
        lines_shown += [next_of_kind(ws, "log") for _line in range(3)]
    assert lines_shown[0]["id"] == first["id"]
    assert len({line["id"] for line in lines_shown}) == 4
    assert sorted(lines_shown, key=lambda line: line["id"]) == lines_shown
    with socket_of(product, stranger) as ws:
        assert send_message(ws, subscription)["error"]["code"] == "MODEL_NOT_FOUND"


@needs_chromium
def test_a_browser_elsewhere_subscribes_with_a_ticket(product, acme, member, app_page):
    acme.fake_model()
    ticket = member.post("/api/auth/ticket").json()["ticket"]
    with browser() as page:
        page.goto(app_page)
        heard = page.evaluate(IN_BROWSER, [address_of(product), ticket])
    assert heard[0] == {"type": "subscribed", "events": SUBSCRIBE["events"]}
    assert heard[-1]["data"].keys() == {"model_id", "status", "health", "timestamp"}


def test_a_foreign_page_is_refused(product, member):
    with pytest.raises(InvalidStatus) as refused, socket_of(product, member, origin="http://evil.test"):
        pass
    assert refused.value.response.status_code == 403


def test_a_revoked_key_ends_its_socket_soon(product, acme, owner):
    key = acme.key()
    with socket_of(product, key) as ws:
        send_message(ws, {"action": "subscribe", "events": ["system_alerts"]})
        assert owner.post(f"/api/keys/{key.key_id}/revoke").status_code == 200
        revoked_at = time.monotonic()
        with pytest.raises(ConnectionClosed) as closed:
            ws.recv(timeout=LONG)
    assert closed.value.rcvd.code == 4401
    assert time.monotonic() - revoked_at < SOON
