"""The engine document's health routes: real checks of each part, and nothing internal."""

import re
import time
from datetime import timedelta

import psutil
import pytest
from django.conf import settings
from django.utils import timezone

from gateway import asgi
from gateway.routing.snapshot import MAX_SNAPSHOT_AGE, RoutingSnapshot, SnapshotSource
from inference.models import GatewayHeartbeat, Node
from tests.config.test_public_pages import closed_port, database_away  # noqa: F401
from tests.support import instance_rows

HEALTH, DETAILS = "/api/v1/health", "/api/v1/health/details"
PARTS = ["gateway", "coordinator", "redis", "database"]


@pytest.fixture
def machine(db) -> Node:
    return instance_rows.node()


def test_all_parts_are_up_as_the_document_shows_it(client, machine):
    reply = client.get(HEALTH)
    body = reply.json()
    assert reply.status_code == 200
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", body.pop("timestamp"))
    assert body == {"status": "UP", "components": dict.fromkeys(PARTS, "UP")}


def test_the_details_are_measured(client, machine):
    instance_rows.node("silent")
    Node.objects.filter(name="silent").update(heartbeat_at=timezone.now() - timedelta(minutes=5))
    GatewayHeartbeat.objects.create(
        id="00000000-0000-0000-0000-000000000001", host="h", pid=1, beat_at=timezone.now(), waiting={"m": 2, "n": 3}
    )
    reply = client.get(DETAILS)
    parts = reply.json()["components"]
    assert (reply.status_code, reply.json()["status"], list(parts)) == (200, "UP", PARTS)
    assert {part["status"] for part in parts.values()} == {"UP"}
    assert parts["coordinator"]["details"] == {
        "workers": {"total": 2, "healthy": 1, "unhealthy": 1},
        "queue": {"pendingTasks": 5, "maxSize": settings.GATEWAY_QUEUE_LIMIT},
    }
    for store in ("redis", "database"):
        assert parts[store]["details"]["connected"] is True
        assert parts[store]["details"]["latencyMs"] >= 0


def test_the_gateways_uptime_is_the_processes_own(client, machine):
    details = client.get(DETAILS).json()["components"]["gateway"]["details"]
    hours, minutes, seconds = map(int, re.fullmatch(r"(\d+)h(\d+)m(\d+)s", details["uptime"]).groups())
    lived = time.time() - psutil.Process().create_time()
    assert abs(hours * 3600 + minutes * 60 + seconds - lived) < 5
    assert details["startTime"].endswith("Z")


def test_without_a_worker_the_coordinator_is_down(client, db):
    reply = client.get(HEALTH)
    assert (reply.status_code, reply.json()["status"]) == (503, "DOWN")
    assert reply.json()["components"] == {**dict.fromkeys(PARTS, "UP"), "coordinator": "DOWN"}


def test_without_redis_it_is_redis_that_is_down(client, machine, settings, closed_port):  # noqa: F811
    settings.REDIS_URL = f"redis://:secret@127.0.0.1:{closed_port}/0"
    reply = client.get(DETAILS)
    assert reply.status_code == 503
    assert reply.json()["components"]["redis"] == {"status": "DOWN", "details": {"connected": False}}
    assert "secret" not in reply.content.decode()
    assert client.get(HEALTH).json()["components"]["database"] == "UP"


def test_without_the_database_the_answer_still_comes_and_names_no_address(database_away, client):  # noqa: F811
    reply = client.get(DETAILS)
    parts = reply.json()["components"]
    assert (reply.status_code, reply.json()["status"]) == (503, "DOWN")
    assert {name: part["status"] for name, part in parts.items()} == {
        "gateway": "UP", "coordinator": "DOWN", "redis": "UP", "database": "DOWN",
    }  # fmt: skip
    assert parts["database"]["details"] == {"connected": False}
    assert "127.0.0.1" not in reply.content.decode()


def test_a_gateway_that_knows_nothing_fresh_is_down(client, machine, monkeypatch):
    source = SnapshotSource(RoutingSnapshot())
    monkeypatch.setattr(asgi.gateway, "_running", object())
    monkeypatch.setattr(asgi.gateway, "_source", source)
    assert client.get(HEALTH).json()["components"]["gateway"] == "UP"
    source._read_at -= MAX_SNAPSHOT_AGE + 1
    assert client.get(HEALTH).json()["components"]["gateway"] == "DOWN"


def test_nothing_internal_is_told(client, machine):
    text = client.get(DETAILS).content.decode()
    assert not [word for word in (machine.name, machine.data_folder, "127.0.0.1", "postgres://") if word in text]
