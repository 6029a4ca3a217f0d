"""The service document's monitoring routes, and /metrics: their forms, their figures, and who sees whose."""

from datetime import UTC, datetime, timedelta

import pytest
from django.utils import timezone

from inference.models import Device, InstanceState
from models_app.models import Model
from monitoring.figures.levels import LEVELS, LEVELS_BY_NAME
from monitoring.figures.queries import level_for, point_count, split_range
from tests.support import instance_rows
from tests.support.metric_rows import measure, minutes_ago, roll, used

METRICS, PERFORMANCE = "/api/monitoring/metrics", "/api/monitoring/performance"
STATUS, GPU = "/api/system/status", "/api/system/gpu"
HOST = {"cpu_percent": 45.2, "memory_percent": 67.8, "memory_used": 4096.0, "disk_percent": 23.4}
CARD = {
    "index": 0, "name": "NVIDIA RTX 4090", "driver_version": "535.86.10", "cuda_version": "12.2",
    "utilization": 78.5, "memory_used": 12288, "memory_total": 24576, "temperature": 65, "power_usage": 350,
    "power_limit": 450, "processes": [{"pid": 1234, "name": "llama-server", "memory_usage": 8192}],
    "timestamp": "2024-01-01T12:00:00Z",
}  # fmt: skip


@pytest.fixture
def ours(tenant) -> Model:
    return Model.objects.create(tenant=tenant, name="ours")


@pytest.fixture
def theirs(stranger) -> Model:
    return Model.objects.create(tenant=stranger.default_tenant, name="theirs")


def machine(cards: int = 1):
    node = instance_rows.node()
    node.live = {**HOST, "timestamp": "2024-01-01T12:00:00Z"}
    node.save()
    for index in range(cards):
        Device.objects.create(
            node=node, kind="cuda", index=index, name=CARD["name"], total_bytes=1, usable_bytes=1,
            measured_at=timezone.now(), live={**CARD, "index": index, "temperature": 65 + index},
        )  # fmt: skip
    return node


def z(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def details(reply) -> set[str]:
    assert (reply.status_code, reply.json()["error"]["code"]) == (422, "INVALID_REQUEST")
    return set(reply.json()["error"]["details"])


# --- system


def test_the_status_is_as_the_document_shows_it(api, operator, ours, theirs, tenant):
    machine()
    instance_rows.instance(ours, InstanceState.READY)
    instance_rows.instance(theirs, InstanceState.FAILED)
    Model.objects.create(tenant=tenant, name="new")
    answer = api(operator).get(STATUS).json()
    assert (answer["status"], answer["version"]) == ("healthy", "1.0.0")
    assert answer["uptime"] >= 0
    assert answer["models"] == {"total": 3, "running": 1, "stopped": 1, "error": 1, "starting": 0, "stopping": 0}
    assert answer["resources"] == {name: HOST[name] for name in ("cpu_percent", "memory_percent", "disk_percent")}
    card = {name: CARD[name] for name in ("name", "utilization", "memory_used", "memory_total", "temperature")}
    assert answer["gpu"] == [{"id": 0, **card, "node": "box"}]


def test_a_tenant_sees_its_own_models_and_the_machines_as_one(api, viewer, stranger, ours):
    machine(cards=2)
    instance_rows.instance(ours, InstanceState.READY)
    seen = api(viewer).get(STATUS)
    assert "box" not in seen.content.decode()
    assert seen.json()["models"]["running"] == 1
    assert seen.json()["resources"]["cpu_percent"] == 45.2
    (together,) = seen.json()["gpu"]
    assert together == {
        "id": 0, "name": "2 × NVIDIA RTX 4090", "utilization": 78.5, "memory_used": 24576, "memory_total": 49152,
        "temperature": 66,
    }  # fmt: skip
    assert api(stranger).get(STATUS).json()["models"]["total"] == 0


def test_without_a_live_worker_the_system_is_degraded(api, viewer):
    answer = api(viewer).get(STATUS).json()
    assert (answer["status"], answer["gpu"]) == ("degraded", [])
    assert answer["resources"] == {"cpu_percent": None, "memory_percent": None, "disk_percent": None}


def test_gpus_are_shown_as_the_document_has_them_to_operators(api, operator, owner):
    machine(cards=2)
    first, second = api(operator).get(GPU).json()["gpus"]
    shown_metrics = {name: value for name, value in CARD.items() if name != "index"}
    assert first == {"id": 0, **shown_metrics, "memory_free": 12288, "node": "box"}
    assert (second["id"], second["temperature"]) == (1, 66)
    assert api(owner).get(GPU).status_code == 403


def test_a_gpu_of_a_silent_machine_is_not_shown(api, operator):
    node = machine()
    node.heartbeat_at = timezone.now() - timedelta(hours=1)
    node.save()
    assert api(operator).get(GPU).json() == {"gpus": []}


# --- metrics


def test_the_metrics_are_as_the_document_shows_them(api, viewer, store):
    at = minutes_ago(10)
    for device, utilization in (("cuda:0", 61.9), ("cuda:1", 95.1)):
        measure("gpu_utilization", at, utilization, device=device)
        measure("gpu_memory_used", at, 12288, device=device)
    measure("cpu_percent", at, 45.2)
    measure("memory_percent", at, 67.8)
    roll()
    answer = api(viewer).get(METRICS).json()
    (point,) = answer["metrics"]
    assert point["timestamp"] == z(at)
    shown = {name: point[name] for name in ("gpu_utilization", "gpu_memory_used", "cpu_percent", "memory_percent")}
    assert shown == {"gpu_utilization": 78.5, "gpu_memory_used": 12288, "cpu_percent": 45.2, "memory_percent": 67.8}
    summary = answer["summary"]
    assert (summary["avg_gpu_utilization"], summary["max_gpu_utilization"]) == (78.5, 95.1)
    assert summary["avg_response_time"] is None
    assert answer["interval"] == "1m"


def test_a_type_limits_what_is_told(api, viewer, store):
    measure("cpu_percent", minutes_ago(1), 10)
    roll()
    answer = api(viewer).get(METRICS, {"metric_type": "cpu"}).json()
    assert answer["metrics"] == [{"timestamp": z(minutes_ago(1)), "cpu_percent": 10}]
    assert answer["summary"] == {"avg_cpu_percent": 10, "max_cpu_percent": 10}
    for kind, name in (("gpu", "gpu_power"), ("memory", "memory_used"), ("model", "requests")):
        (point,) = api(viewer).get(METRICS, {"metric_type": kind}).json()["metrics"] or [{name: None}]
        assert name in point and "cpu_percent" not in point


@pytest.mark.parametrize(("interval", "points"), [("1m", 3), ("5m", 2), ("1h", 1), ("1d", 1)])
def test_the_interval_is_the_width_of_the_points(api, viewer, store, interval, points):
    day = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=1)
    for minute, value in ((0, 10), (1, 20), (7, 60)):
        measure("cpu_percent", day + timedelta(minutes=minute), value)
    roll()
    query = {"start_time": z(day), "end_time": z(day + timedelta(days=1)), "metric_type": "cpu", "interval": interval}
    answer = api(viewer).get(METRICS, query).json()
    assert (answer["interval"], len(answer["metrics"])) == (interval, points)
    assert answer["summary"] == {"avg_cpu_percent": 30, "max_cpu_percent": 60}


def test_start_and_end_bound_the_answer(api, viewer, store):
    for minutes in (30, 20, 10):
        measure("cpu_percent", minutes_ago(minutes), minutes)
    roll()

    def seen(**query) -> list[float]:
        points = api(viewer).get(METRICS, {"metric_type": "cpu", **query}).json()["metrics"]
        return [point["cpu_percent"] for point in points]

    assert seen(start_time=z(minutes_ago(25))) == [20, 10]
    assert seen(end_time=z(minutes_ago(15))) == [30, 20]
    assert seen(start_time=z(minutes_ago(25)), end_time=z(minutes_ago(15))) == [20]
    assert seen(start_time=z(minutes_ago(300)), end_time=z(minutes_ago(200))) == []


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"start_time": "yesterday"}, "start_time"),
        ({"end_time": "2024-13-01T00:00:00Z"}, "end_time"),
        ({"start_time": "0001-01-01T00:00:00Z"}, "start_time"),
        ({"start_time": "2024-01-02T00:00:00Z", "end_time": "2024-01-01T00:00:00Z"}, "end_time"),
        ({"start_time": "2024-01-01T00:00:00Z", "end_time": "2024-01-01T00:00:00Z"}, "end_time"),
        ({"metric_type": "disk"}, "metric_type"),
        ({"interval": "2m"}, "interval"),
        ({"start_time": "{days_ago}", "interval": "1m"}, "interval"),
    ],
)
def test_wrong_questions_are_refused_by_name(api, viewer, query, field):
    ten_days_ago = z(minutes_ago(10 * 24 * 60))
    query = {name: value.format(days_ago=ten_days_ago) for name, value in query.items()}
    query |= {"end_time": z(minutes_ago(0))} if "{days_ago}" in str(query) or query.get("interval") == "1m" else {}
    assert details(api(viewer).get(METRICS, query)) == {field}


def test_the_roll_up_fits_the_range_and_what_is_kept():
    now = datetime.now(UTC)
    ranges = {1 / 24: "1m", 1: "5m", 7: "1h", 30: "1h", 365: "1d"}
    assert {days: level_for(now - timedelta(days=days), now).name for days in ranges} == ranges
    old = now - timedelta(days=60)
    assert level_for(old, old + timedelta(hours=1), LEVELS_BY_NAME["1m"]).name == "5m"
    ancient = now - timedelta(days=200)
    assert level_for(ancient, ancient + timedelta(hours=1)).name == "1h"


@pytest.mark.parametrize("minutes", [0, 7, 59, 60, 61, 1439, 1440, 3000, 44640])
@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.name)
def test_a_range_is_cut_into_pieces_without_gap_or_overlap(level, minutes):
    end = datetime(2031, 3, 5, 13, 47, 11, tzinfo=UTC)
    start = end - timedelta(minutes=minutes)
    cut = list(split_range(start, end, level))
    borders = [moment for begin, finish, _level in cut for moment in (begin, finish)]
    assert borders[1:-1:2] == borders[2::2]
    assert all(level.floor(begin) == begin < finish for begin, finish, level in cut)
    assert (borders[0], borders[-1]) == (level.floor(start), end) or not cut
    assert sum(point_count(begin, finish, level) for begin, finish, level in cut) < 300


def test_a_tenant_sees_the_figures_of_its_own_models(api, viewer, stranger, operator, store, ours, theirs):
    for tenant, model, times in ((ours.tenant_id, ours, 3), (theirs.tenant_id, theirs, 2), (theirs.tenant_id, ours, 1)):
        for _ in range(times):
            used(minutes_ago(2), tenant_id=tenant, model_id=model.pk)
    roll()

    def requests(who) -> float:
        return api(who).get(METRICS, {"metric_type": "model"}).json()["summary"]["total_requests"]

    assert (requests(viewer), requests(stranger), requests(operator)) == (4, 2, 6)
    Model.objects.update(visibility="public")
    assert requests(stranger) == 3


# --- performance


def test_the_performance_is_as_the_document_shows_it(api, viewer, store, ours):
    for milliseconds in [100] * 50 + [500] * 48 + [2100] * 2:
        used(minutes_ago(30), tenant_id=ours.tenant_id, model_id=ours.pk, duration_ms=milliseconds, ttft_ms=40)
    used(minutes_ago(30), tenant_id=ours.tenant_id, model_id=ours.pk, status="timeout", duration_ms=900, ttft_ms=None)
    measure("cpu_percent", minutes_ago(30), 45.2)
    roll()
    answer = api(viewer).get(PERFORMANCE, {"time_range": "1h"}).json()
    assert answer["time_range"] == "1h"
    (model,) = answer["models"]
    assert (model["model_id"], model["model_name"]) == (ours.pk, "ours")
    assert (model["total_requests"], model["successful_requests"], model["failed_requests"]) == (101, 100, 1)
    assert (model["min_response_time"], model["max_response_time"]) == (0.1, 2.1)
    assert model["avg_response_time"] == pytest.approx((50 * 0.1 + 48 * 0.5 + 2 * 2.1 + 0.9) / 101, abs=0.001)
    assert model["p50_response_time"] == pytest.approx(0.35, abs=0.15)
    assert 0.35 <= model["p95_response_time"] <= 0.5
    assert 1.5 <= model["p99_response_time"] <= 2.1
    assert 0.02 <= model["p99_time_to_first_token"] <= 0.04
    assert (model["error_rate"], model["requests_per_second"]) == (round(1 / 101, 4), round(101 / 3600, 4))
    assert answer["system"] == {"avg_cpu_percent": 45.2, "avg_memory_percent": None, "avg_gpu_utilization": None}


@pytest.mark.parametrize(("time_range", "requests"), [("1h", 1), ("24h", 2), ("7d", 3), ("30d", 4)])
def test_the_range_bounds_the_performance(api, viewer, store, ours, time_range, requests):
    for days in (0.02, 0.5, 5, 25):
        used(minutes_ago(days * 24 * 60), tenant_id=ours.tenant_id, model_id=ours.pk)
    roll()
    (model,) = api(viewer).get(PERFORMANCE, {"time_range": time_range}).json()["models"]
    assert (model["total_requests"], model["prompt_tokens"]) == (requests, requests * 10)


def test_one_model_is_told_by_id_or_name(api, viewer, store, ours, tenant):
    other = Model.objects.create(tenant=tenant, name="other")
    for model in (ours, other, other):
        used(minutes_ago(2), tenant_id=tenant.pk, model_id=model.pk)
    idle = Model.objects.create(tenant=tenant, name="idle")
    roll()

    def shown_metrics(**query) -> dict[str, int]:
        models = api(viewer).get(PERFORMANCE, query).json()["models"]
        return {model["model_name"]: model["total_requests"] for model in models}

    assert shown_metrics() == {"other": 2, "ours": 1}
    assert shown_metrics(model_id=ours.pk) == shown_metrics(model_id="ours") == {"ours": 1}
    assert shown_metrics(model_id=idle.pk) == {"idle": 0}


def test_wrong_questions_about_performance_are_refused(api, viewer, store, theirs):
    assert details(api(viewer).get(PERFORMANCE, {"time_range": "2h"})) == {"time_range"}
    for ref in (theirs.pk, "theirs", "missing"):
        reply = api(viewer).get(PERFORMANCE, {"model_id": ref})
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "MODEL_NOT_FOUND")


def test_strangers_see_nothing_of_our_performance(api, viewer, stranger, operator, store, ours):
    used(minutes_ago(2), tenant_id=ours.tenant_id, model_id=ours.pk)
    roll()
    assert [model["model_id"] for model in api(viewer).get(PERFORMANCE).json()["models"]] == [ours.pk]
    assert api(stranger).get(PERFORMANCE).json()["models"] == []
    assert [model["model_id"] for model in api(operator).get(PERFORMANCE).json()["models"]] == [ours.pk]


def test_a_key_that_is_limited_to_some_models_sees_only_those(api, key, store, ours, tenant):
    other = Model.objects.create(tenant=tenant, name="other")
    for model in (ours, other):
        used(minutes_ago(2), tenant_id=tenant.pk, model_id=model.pk)
    roll()
    seen = api(key(allowed_models=[ours.pk])).get(PERFORMANCE).json()["models"]
    assert [model["model_name"] for model in seen] == ["ours"]
