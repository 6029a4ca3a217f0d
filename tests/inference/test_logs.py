"""Logs over REST and as streams: who reads what of whose, in the documents' forms, and how a stream ends."""

import json
import socket
import time
from contextlib import ExitStack, contextmanager
from itertools import islice

import httpx
import psutil
import pytest
import redis
from django.db import connection

from accounts import services, tokens
from accounts.models import ApiKey, AuditRecord, LoginSession, Scope
from core import broker, streaming
from core.asgi_server import shutdown
from inference.logs import stream
from inference.logs.lines import StoredLogLine
from inference.models import InstanceState
from models_app.models import Model, Visibility
from tests.support import instance_rows
from tests.support.uvicorn_server import address  # noqa: F401

SOON = 20  # seconds that anything may take on a busy machine
MODELS = "/api/models"
NOW = 1_700_000_000.0


@pytest.fixture(autouse=True)
def empty_valkey():
    broker.client().flushdb()


@pytest.fixture
def model(tenant) -> Model:
    return Model.objects.create(tenant=tenant, name="ours")


@pytest.fixture
def theirs(stranger) -> Model:
    return Model.objects.create(tenant=stranger.default_tenant, name="theirs")


def write(model, *texts: str, at: float = NOW, instance: str = "instance-a", replica: int = 0) -> None:
    """As the agent does; lines are a second apart."""
    known = stream.positions(model.pk, [instance])[instance]
    lines = [StoredLogLine(at + second, instance, replica, text) for second, text in enumerate(texts)]
    assert stream.append(model.pk, [stream.ReadProgress(instance, known, f"{known}+")], lines)


def code(reply) -> tuple[int, str]:
    return reply.status_code, reply.json()["error"]["code"]


def messages(reply) -> list[str]:
    return [line["message"] for line in reply.json()["logs"]]


# --- the last lines


def test_the_last_lines_are_told_as_the_document_shows(api, viewer, model):
    write(model, "INFO 11-21 loading", "(EngineCore) ERROR it broke")
    (first, second) = api(viewer).get(f"{MODELS}/ours/logs").json()["logs"]
    assert first == {
        "timestamp": "2023-11-14T22:13:20Z", "level": "INFO", "message": "INFO 11-21 loading",
        "instance_id": "instance-a", "replica": 0,
    }  # fmt: skip
    assert (second["timestamp"], second["level"]) == ("2023-11-14T22:13:21Z", "ERROR")


def test_of_many_lines_the_last_hundred_or_as_many_as_asked_for(api, viewer, model):
    write(model, *[f"line {number}" for number in range(150)])
    assert messages(api(viewer).get(f"{MODELS}/ours/logs")) == [f"line {number}" for number in range(50, 150)]
    assert messages(api(viewer).get(f"{MODELS}/ours/logs?lines=2")) == ["line 148", "line 149"]


def test_lines_of_all_replicas_are_in_the_order_of_time(api, viewer, model):
    write(model, "a1", "a2", instance="instance-a")
    write(model, "b1", "b2", instance="instance-b", replica=1, at=NOW + 0.5)
    logs = api(viewer).get(f"{MODELS}/ours/logs").json()["logs"]
    assert [(line["message"], line["replica"]) for line in logs] == [("a1", 0), ("b1", 1), ("a2", 0), ("b2", 1)]


def test_a_model_that_never_ran_has_no_lines(api, viewer, model):
    reply = api(viewer).get(f"{MODELS}/ours/logs")
    assert (reply.status_code, reply.json()) == (200, {"logs": []})


@pytest.mark.parametrize("query", ["lines=0", "lines=-1", "lines=many", "lines=10001", "follow=perhaps"])
def test_a_wrong_question_is_refused_by_name(api, viewer, model, query):
    reply = api(viewer).get(f"{MODELS}/ours/logs?{query}")
    assert code(reply) == (422, "INVALID_REQUEST")
    assert list(reply.json()["error"]["details"]) == [query.partition("=")[0]]


def test_strangers_and_other_tenants_users_of_a_public_model_read_nothing(api, stranger, model):
    for path in (f"{MODELS}/ours/logs", f"{MODELS}/ours/logs/stream"):
        assert code(api(stranger).get(path)) == (404, "MODEL_NOT_FOUND")
    Model.objects.update(visibility=Visibility.PUBLIC)
    for path in (f"{MODELS}/ours/logs", f"{MODELS}/ours/logs/stream"):
        assert code(api(stranger).get(path)) == (403, "AUTHORIZATION_FAILED")


def test_a_tenant_reads_no_host_paths_or_pids_and_an_operator_does(api, viewer, operator, model):
    line = "(APIServer pid=4711) INFO reading /srv/data/tenants/acme/w.safetensors for GET /v1/models [process 4712]"
    write(model, line)
    assert messages(api(viewer).get(f"{MODELS}/ours/logs")) == [
        "(APIServer pid=…) INFO reading …/w.safetensors for GET /v1/models [process …]"
    ]
    assert messages(api(operator).get(f"{MODELS}/{model.pk}/logs")) == [line]


def test_a_name_with_slashes_has_logs(api, viewer, tenant):
    model = Model.objects.create(tenant=tenant, name="org/logs/model")
    write(model, "hello")
    assert messages(api(viewer).get(f"{MODELS}/org/logs/model/logs")) == ["hello"]


def test_without_valkey_the_answer_is_to_try_again(api, viewer, member, model, monkeypatch):
    nowhere = redis.Redis(port=1)
    monkeypatch.setattr(broker, "client", lambda: nowhere)
    replies = [
        api(viewer).get(f"{MODELS}/ours/logs"), api(viewer).get("/api/logs/stats"),
        api(member).post("/api/logs/ours/clear"), api(viewer).post("/api/auth/ticket"),
    ]  # fmt: skip
    assert [code(reply) for reply in replies] == [(503, "SERVICE_UNAVAILABLE")] * 4


# --- figures, and clearing


def test_figures_count_the_callers_own_models(api, viewer, stranger, operator, key, model, theirs, tenant):
    other = Model.objects.create(tenant=tenant, name="silent")
    write(model, "one", "two")
    write(theirs, "three")
    shown = api(viewer).get("/api/logs/stats").json()
    assert shown == {"success": True, "stats": {"total_models": 2, "total_log_entries": 2, "models_with_logs": 1}}
    assert api(stranger).get("/api/logs/stats").json()["stats"]["total_log_entries"] == 1
    assert api(operator).get("/api/logs/stats").json()["stats"]["total_log_entries"] == 3
    limited = key(allowed_models=[other.pk])
    assert api(limited).get("/api/logs/stats").json()["stats"]["total_models"] == 1


def test_clearing_deletes_all_lines_and_says_how_many(api, member, model):
    write(model, "one", "two", at=time.time())
    reply = api(member).post("/api/logs/ours/clear").json()
    assert reply == {"success": True, "message": "Model 'ours': all logs cleared, 2 lines."}
    assert messages(api(member).get(f"{MODELS}/ours/logs")) == []
    assert AuditRecord.objects.get(action="model.clear_logs").details == {"keep_minutes": 0, "lines": 2}


def test_clearing_keeps_the_last_minutes_and_those_are_kept_when_lines_come_again(api, member, model):
    row = instance_rows.instance(model, InstanceState.READY)
    write(model, "old", at=time.time() - 600)
    write(model, "new", at=time.time() - 60)
    reply = api(member).post("/api/logs/ours/clear?keep_minutes=5")
    assert reply.json()["message"] == "Model 'ours': logs older than 5 minutes cleared, 1 lines."
    assert messages(api(member).get(f"{MODELS}/ours/logs")) == ["new"]
    row.refresh_from_db()
    assert 290 < time.time() - row.logs_since.timestamp() < 360


@pytest.mark.parametrize("minutes", ["-1", "soon", "1.5", str(10**12)])
def test_a_wrong_number_of_minutes_is_refused(api, member, model, minutes):
    write(model, "kept")
    reply = api(member).post(f"/api/logs/ours/clear?keep_minutes={minutes}")
    assert code(reply) == (422, "INVALID_REQUEST")
    assert messages(api(member).get(f"{MODELS}/ours/logs")) == ["kept"]


def test_nobody_clears_a_foreign_models_logs(api, stranger, viewer, model):
    write(model, "kept")
    assert code(api(stranger).post("/api/logs/ours/clear")) == (404, "MODEL_NOT_FOUND")
    assert code(api(viewer).post("/api/logs/ours/clear")) == (403, "AUTHORIZATION_FAILED")
    assert messages(api(viewer).get(f"{MODELS}/ours/logs")) == ["kept"]


def test_a_deleted_models_lines_go_with_it(api, owner, model, django_capture_on_commit_callbacks):
    write(model, "one")
    with django_capture_on_commit_callbacks(execute=True):
        assert api(owner).delete(f"{MODELS}/ours").status_code == 200
    assert broker.client().keys("serai:logs:*") == []


# --- streams


class Events:
    """The messages of an open stream, one by one; comments are passed over."""

    def __init__(self, reply: httpx.Response):
        self.reply = reply
        self.last_id = ""
        self._lines = reply.iter_lines()

    def __iter__(self):
        for line in self._lines:
            if line.startswith("id: "):
                self.last_id = line[4:]
            elif line.startswith("data: "):
                yield json.loads(line[6:])

    def take(self, count: int) -> list[dict]:
        return list(islice(self, count))


@pytest.fixture
def follow(address):  # noqa: F811
    """follow(credential, path) is an open stream."""

    @contextmanager
    def opened(credential=None, path=f"{MODELS}/ours/logs/stream", **headers):
        headers |= {"Accept": "text/event-stream"} | ({"Authorization": f"Bearer {credential}"} if credential else {})
        with httpx.stream("GET", f"http://{address}{path}", headers=headers, timeout=SOON) as reply:
            yield Events(reply)

    opened.address = address
    return opened


def access(user) -> str:
    return tokens.open_session(user)["access_token"]


def text(message: dict) -> tuple[str, str]:
    return message["type"], message["log"]["message"]


def test_a_stream_has_what_was_and_then_what_comes(follow, viewer, model):
    write(model, "loading", "ready")
    with follow(access(viewer)) as events:
        assert events.reply.status_code == 200
        assert events.reply.headers["Content-Type"].startswith("text/event-stream")
        assert events.reply.headers["Cache-Control"] == "no-store"
        assert "Content-Length" not in events.reply.headers
        first, second, complete = events.take(3)
        assert first["log"]["timestamp"] == 1_700_000_000
        assert [text(first), text(second)] == [("historical", "loading"), ("historical", "ready")]
        assert complete == {"type": "historical_complete"}
        write(model, "serving", at=NOW + 10)
        assert text(*events.take(1)) == ("realtime", "serving")


def test_a_stream_of_a_model_that_never_ran_waits_for_it(follow, viewer, model):
    with follow(access(viewer)) as events:
        assert events.take(1) == [{"type": "historical_complete"}]
        write(model, "first words")
        assert text(*events.take(1)) == ("realtime", "first words")


def test_a_client_goes_on_after_the_last_line_that_it_had(follow, viewer, model):
    write(model, "one", "two")
    with follow(access(viewer)) as events:
        events.take(2)
        had = events.last_id
    write(model, "three", at=NOW + 5)
    for query, headers in (("", {"Last-Event-ID": had}), (f"?last_event_id={had}", {})):
        with follow(access(viewer), f"{MODELS}/ours/logs/stream{query}", **headers) as events:
            assert text(*events.take(1)) == ("historical", "three")


def test_a_nonsensical_last_line_counts_as_none(follow, viewer, model):
    write(model, "one")
    with follow(access(viewer), **{"Last-Event-ID": "+; flushall"}) as events:
        assert text(*events.take(1)) == ("historical", "one")


def test_the_service_documents_follow_is_a_stream_of_its_lines(follow, viewer, model):
    write(model, "one", "two", "three")
    with follow(access(viewer), f"{MODELS}/ours/logs?follow=true&lines=2") as events:
        assert [line["message"] for line in events.take(2)] == ["two", "three"]
        write(model, "WARNING four", at=NOW + 9)
        (line,) = events.take(1)
        assert (line["message"], line["level"], line["timestamp"]) == (
            "WARNING four",
            "WARNING",
            "2023-11-14T22:13:29Z",
        )


def test_a_stream_ends_within_seconds_when_the_right_to_it_ends(follow, key, admin, member, viewer, owner, model):
    losers = [key(scopes=[Scope.READ]), access(admin), access(member)]
    for secret, take_away in zip(
        losers,
        [
            lambda: services.revoke_key(ApiKey.objects.get()),
            lambda: services.remove_member(admin.memberships.get()),
            lambda: LoginSession.objects.filter(user=member).delete(),
        ],
        strict=True,
    ):
        with follow(secret) as events:
            events.take(1)
            take_away()
            assert [message["type"] for message in events] == ["error", "stream_end"]


def test_a_stream_ends_with_its_model(follow, viewer, model):
    with follow(access(viewer)) as events:
        events.take(1)
        model.delete()
        assert [message["type"] for message in events] == ["error", "stream_end"]


def test_streams_end_when_the_process_is_asked_to(follow, viewer, model, monkeypatch):
    with follow(access(viewer)) as events:
        events.take(1)
        monkeypatch.setattr(shutdown, "begun", True)
        assert [message["type"] for message in events] == ["stream_end"]


def test_strangers_and_nobody_open_no_stream(follow, stranger, key, model):
    for credential, status in (
        (access(stranger), 404),
        (None, 401),
        ("sk-serai-x", 401),
        (key(scopes=["inference"]), 403),
    ):
        with follow(credential) as events:
            assert events.reply.status_code == status
            assert events.reply.headers["Content-Type"] == "application/json"


def test_another_origin_may_read_a_stream_only_where_it_is_configured(follow, viewer, model, settings):
    settings.CORS_ORIGINS = ["https://app.test"]
    for origin, allowed in (("https://app.test", "https://app.test"), ("https://evil.test", None)):
        with follow(access(viewer), Origin=origin) as events:
            assert events.reply.headers.get("Access-Control-Allow-Origin") == allowed


def test_open_streams_hold_no_thread_and_no_database_connection(follow, viewer, model):
    """More streams than the process had threads before and than Django would have connections for."""
    credential, process = access(viewer), psutil.Process()
    before = process.num_threads(), _connections()
    with ExitStack() as stack:
        for _number in range(30):
            events = stack.enter_context(follow(credential))
            assert events.take(1) == [{"type": "historical_complete"}]
        after = process.num_threads(), _connections()
    assert after[0] - before[0] < 15
    assert after[1] - before[1] < 5


def _connections() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")
        return cursor.fetchone()[0]


def test_one_tenants_streams_are_limited_and_do_not_count_for_another(
    follow, viewer, stranger, model, theirs, monkeypatch
):
    monkeypatch.setattr(streaming, "MAX_STREAMS_PER_OWNER", 1)
    with follow(access(viewer)) as events:
        events.take(1)
        with follow(access(viewer)) as second:
            assert second.reply.status_code == 429
            assert second.reply.headers["Retry-After"] == "10"
        with follow(access(stranger), f"{MODELS}/theirs/logs/stream") as other:
            assert other.reply.status_code == 200


def test_a_client_that_reads_nothing_is_dropped(follow, viewer, model, settings, monkeypatch):
    """Its place is free again for another."""
    settings.GATEWAY_SEND_TIMEOUT = 0.5
    monkeypatch.setattr(streaming, "MAX_STREAMS_PER_OWNER", 1)
    for turn in range(10):
        write(model, *["x" * 3000] * 100, at=NOW + 200 * turn)
    credential = access(viewer)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        host, _, port = follow.address.partition(":")
        client.connect((host, int(port)))
        head = f"GET {MODELS}/ours/logs/stream HTTP/1.1\r\nHost: {follow.address}\r\n"
        client.sendall(f"{head}Authorization: Bearer {credential}\r\n\r\n".encode())
        assert client.recv(4) == b"HTTP"
        seen = {_status(follow, credential)}
        deadline = time.monotonic() + SOON
        while 200 not in seen and time.monotonic() < deadline:
            seen.add(_status(follow, credential))
            time.sleep(0.1)
        assert 200 in seen


def _status(follow, credential) -> int:
    with follow(credential) as events:
        return events.reply.status_code


# --- when Valkey forgets


def test_lines_that_come_again_after_a_loss_are_not_told_twice(follow, viewer, model):
    write(model, "one", "two")
    with follow(access(viewer)) as events:
        events.take(3)
        broker.client().flushdb()
        write(model, "one", "two", "three")
        assert [text(message)[1] for message in events.take(1)] == ["three"]
