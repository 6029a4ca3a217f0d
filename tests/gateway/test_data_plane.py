"""The whole data plane over Postgres: what is in the tables is in force within a second, and usage arrives there."""

import asyncio
import threading
import uuid
from datetime import UTC, datetime, timedelta

import httpx
import orjson
import pytest
import uvicorn
from django.db import connection
from django.utils import timezone

from accounts import tokens
from accounts.models import ApiKey, Tenant
from gateway.api.stream_relay import TokenUsage
from gateway.asgi import DataPlane, handles
from gateway.metering.meter import RequestRecord, UsageTable
from gateway.metering.spool import Spool
from inference.models import GatewayHeartbeat, Instance, InstanceState, Node, UsageRecord
from inference.usage import LOST
from models_app.models import Model, ModelAlias, Visibility
from tests.support import metric_rows
from tests.support.gateway_server import EngineProcess, chat, engine_folder
from tests.support.waiting import eventually

CHAT = "/v1/chat/completions"

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def empty_ledger(transactional_db):
    """Its table is none of Django's, so no flush empties it, for these tests or for those that come after."""
    metric_rows.empty()
    yield
    metric_rows.empty()


@pytest.fixture
def engine():
    with engine_folder() as folder:
        yield EngineProcess(folder)


@pytest.fixture
def model(transactional_db, tenant):
    model = Model.objects.create(tenant=tenant, name="demo", config={"max_tokens": 2, "n_ctx": 64, "dtype": "auto"})
    ModelAlias.objects.create(tenant=tenant, model=model, name="nick")
    return model


@pytest.fixture
def running(model, engine):
    node = Node.objects.create(name="here", data_folder="/tmp")
    return Instance.objects.create(
        tenant=model.tenant, model=model, node=node, state=InstanceState.READY,
        served_name="demo", endpoint=engine.endpoint,
        running_generation=1, healthy=True, started_at=timezone.now() - timedelta(seconds=40), ready_at=timezone.now(),
    )  # fmt: skip


class Plane:
    """The data plane of this process under uvicorn, in a thread."""

    def __init__(self, **options):
        self.app = DataPlane()
        options = {"loop": "uvloop", "log_level": "warning", "timeout_graceful_shutdown": 3, **options}
        config = uvicorn.Config(self.app, port=0, interface="asgi3", **options)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        eventually(lambda: self._server.started)
        self.url = f"http://127.0.0.1:{self._server.servers[0].sockets[0].getsockname()[1]}"

    def client(self, secret: str) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers={"authorization": f"Bearer {secret}"}, timeout=30)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(20)


@pytest.fixture
def plane(transactional_db, running, settings, tmp_path):
    settings.SPOOL_DIR = tmp_path / "spool"
    plane = Plane()
    yield plane
    plane.stop()


@pytest.fixture
def client(plane, key):
    with plane.client(key()) as session:
        yield session


def status(client) -> int:
    return client.post(CHAT, json=chat()).status_code


def usage_rows() -> list[UsageRecord]:
    return list(UsageRecord.objects.order_by("started_at"))


def test_a_request_is_answered_and_arrives_in_the_ledger(client, tenant, model, running):
    before = timezone.now()
    assert client.post(CHAT, json=chat("one two")).json()["usage"]["completion_tokens"] == 2
    assert client.post(CHAT, json=chat("one", model="nick", stream=True)).status_code == 200
    eventually(lambda: UsageRecord.objects.count() == 2)
    whole, streamed = usage_rows()
    assert (whole.tenant_id, whole.model_id, whole.model_name) == (tenant.pk, model.pk, "demo")
    assert (whole.prompt_tokens, whole.completion_tokens, whole.status, whole.http_status) == (3, 2, "ok", 200)
    assert (whole.instance_id, whole.generation, whole.stream, whole.ttft_ms) == (running.pk, 1, False, None)
    assert (streamed.prompt_tokens, streamed.completion_tokens, streamed.stream) == (2, 2, True)
    assert before <= whole.started_at <= timezone.now()
    assert whole.started_on == whole.started_at.astimezone(UTC).date()
    used = ApiKey.objects.get(pk=whole.key_id)
    eventually(lambda: ApiKey.objects.get(pk=used.pk).last_used_at)


def test_a_new_key_works_at_once_and_a_revoked_one_no_longer(plane, key):
    with plane.client(key()) as client:
        assert status(client) == 200
        ApiKey.objects.update(revoked_at=timezone.now())
        eventually(lambda: status(client) == 401)


def test_an_expired_key_and_a_key_of_a_closed_tenant_are_none(plane, key, tenant):
    expired = key(expires_at=timezone.now() - timedelta(seconds=1))
    with plane.client(expired) as late, plane.client(key()) as client:
        assert status(late) == 401
        assert status(client) == 200
        Tenant.objects.filter(pk=tenant.pk).update(is_active=False)
        eventually(lambda: status(client) == 401)


def test_people_come_in_with_their_tokens_as_far_as_their_role_goes(plane, member, viewer, stranger, operator):
    def signed_in(user, **headers) -> int:
        session = tokens.open_session(user)
        with plane.client(session["access_token"]) as client:
            client.headers.update(headers)
            found = status(client)
            tokens.revoke_session(session["access_token"])
            eventually(lambda: status(client) == 401)
        return found

    assert signed_in(member) == 200
    assert signed_in(viewer) == 403
    assert signed_in(stranger) == 404
    assert signed_in(operator, **{"serai-tenant": "acme"}) == 200


def test_changes_of_models_and_instances_are_followed(client, model, running, stranger, plane, key):
    assert client.get("/v1/models").json()["data"][0]["aliases"] == ["nick"]
    ModelAlias.objects.create(tenant=model.tenant, model=model, name="pet")
    eventually(lambda: client.get("/v1/models").json()["data"][0]["aliases"] == ["nick", "pet"])
    foreign = key(tenant=Tenant.objects.get(slug="evil"), maker=stranger)
    with plane.client(foreign) as mallory:
        assert status(mallory) == 404
        Model.objects.update(visibility=Visibility.PUBLIC)
        eventually(lambda: status(mallory) == 200)
    Instance.objects.update(state=InstanceState.DRAINING)
    eventually(lambda: GatewayHeartbeat.objects.get().routes == [])


def test_a_server_without_lifespan_starts_it_with_the_first_request(running, key, settings, tmp_path):
    settings.SPOOL_DIR = tmp_path / "spool"
    plane = Plane(lifespan="off")
    with plane.client(key()) as client:
        assert status(client) == 200
    asyncio.run_coroutine_threadsafe(plane.app.stop(), plane.app.loop).result(20)
    plane.stop()
    assert usage_rows()


def test_the_heartbeat_tells_agents_what_is_routed_and_ends_with_the_process(plane, client, running):
    eventually(lambda: GatewayHeartbeat.objects.filter(routes=[running.pk]).exists())
    assert status(client) == 200
    eventually(lambda: running.pk in GatewayHeartbeat.objects.get().idle)
    first = GatewayHeartbeat.objects.get()
    eventually(lambda: GatewayHeartbeat.objects.get().beat_at > first.beat_at)
    plane.stop()
    assert not GatewayHeartbeat.objects.exists()


def test_the_models_limits_and_defaults_come_from_its_configuration(client):
    assert client.get("/v1/models/demo").json()["max_model_len"] == 64
    reply = client.post(CHAT, json=chat(max_tokens=65))
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "max_tokens")


def test_a_model_without_files_is_not_ready_rather_than_a_wrong_request(client, running):
    running.delete()
    eventually(lambda: status(client) == 503)
    assert client.post(CHAT, json=chat()).json()["error"]["code"] == "model_not_ready"


def test_connections_that_postgres_cuts_are_made_again(plane, key):
    with plane.client(key()) as client:
        assert status(client) == 200
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        assert status(client) == 200
        ApiKey.objects.update(revoked_at=timezone.now())
        eventually(lambda: status(client) == 401)
    eventually(lambda: UsageRecord.objects.count() >= 2)


def settled(**fields) -> tuple[list, list]:
    entry = RequestRecord(
        tenant_id="t", model_id="m", model_name="demo", route="chat", stream=False, status="ok", **fields
    )
    return entry.admission(), entry.settlement()


def test_the_same_record_counts_once_however_often_it_is_sent():
    row, table = settled(http_status=200, usage=TokenUsage(5, 7, 2), ttft_ms=3), UsageTable()
    for _ in range(3):
        table.insert([row, row])
    [found] = usage_rows()
    assert (found.prompt_tokens, found.completion_tokens, found.cached_tokens, found.ttft_ms) == (5, 7, 2, 3)
    assert str(found.request_id) == row[0][1]


def test_a_record_belongs_to_the_day_of_its_admission():
    midnight = datetime(2026, 3, 1, tzinfo=UTC).timestamp()
    UsageTable().insert([settled(started_at=midnight - 0.5), settled(started_at=midnight)])
    assert [str(row.started_on) for row in usage_rows()] == ["2026-02-28", "2026-03-01"]


def test_a_record_that_the_table_refuses_does_not_hold_up_the_others(caplog):
    bad, good = settled(generation=2**40), settled(generation=1)
    UsageTable().insert([bad, good])
    assert [str(row.request_id) for row in usage_rows()] == [good[0][1]]
    assert bad[0][1] in caplog.text


def test_what_a_killed_gateway_left_is_in_the_ledger_as_lost(settings, tmp_path, running):
    settings.SPOOL_DIR = tmp_path / "spool"
    dead = Spool(settings.SPOOL_DIR)
    entry = RequestRecord(tenant_id="t", model_id="m", model_name="demo", route="chat", stream=True)
    dead.admit(entry.request_id, orjson.dumps(entry.admission()) + b"\n")
    dead.close()
    plane = Plane()
    eventually(lambda: UsageRecord.objects.exists())
    plane.stop()
    [row] = usage_rows()
    assert (row.status, row.completion_tokens, row.request_id) == (LOST, 0, uuid.UUID(entry.request_id))


def test_only_inference_routes_are_taken_from_django():
    def http(path: str, kind: str = "http") -> bool:
        return handles({"type": kind, "path": path})

    assert all(map(http, ("/v1/models", CHAT, "/v1/whatever", "/tokenize", "/api/models/a/b/generate")))
    foreign = ("/", "/api/models", "/api/models/a/start", "/v2", "/tokenize/x", "/console/", "/api/v1/x")
    assert not any(map(http, foreign))
    assert not handles({"type": "websocket", "path": "/v1/models"})
