"""Start, stop and restart over REST, their tasks, the manager document's info, and the sums of usage."""

import uuid
from datetime import UTC, date, datetime, timedelta

import pytest
from django.utils import timezone

from accounts.models import AuditRecord
from inference.models import (
    Device,
    EngineTokens,
    GatewayHeartbeat,
    Instance,
    InstanceState,
    Node,
    Reservation,
    UsageRecord,
)
from models_app.models import Model
from tests.support import instance_rows

MODELS, USAGE = "/api/models", "/api/usage"


@pytest.fixture
def model(tenant) -> Model:
    return Model.objects.create(tenant=tenant, name="my-model", config={"model_path": "serai-demo", "n_ctx": 256})


@pytest.fixture
def foreign(stranger) -> Model:
    return Model.objects.create(tenant=stranger.default_tenant, name="theirs")


@pytest.fixture
def ready_machine(settings):
    """A node whose engine needs no installation here."""
    settings.ENGINE_ADAPTERS = ["engines.vllm.VllmEngine"]
    return instance_rows.node()


def code(reply) -> tuple[int, str]:
    return reply.status_code, reply.json()["error"]["code"]


# --- start, stop, restart


def test_a_start_is_answered_as_the_documents_show(api, member, model, ready_machine):
    reply = api(member).post(f"{MODELS}/my-model/start", {"force": False, "timeout": 300})
    assert reply.status_code == 200
    answer = reply.json()
    assert answer.pop("task_id").startswith("task-")
    assert answer == {"success": True, "message": "Model is starting.", "status": "starting"}
    instance = Instance.objects.get()
    assert (instance.state, instance.start_timeout, instance.on_demand) == ("pending", 300, False)
    assert Device.objects.get().reserved_bytes == Reservation.objects.get().bytes > 0
    assert api(member).get(f"{MODELS}/my-model").json()["status"] == "starting"
    assert AuditRecord.objects.get(action="model.start").object_id == model.pk


def test_a_body_is_optional(api, member, model, ready_machine):
    for verb in ("start", "stop", "restart"):
        assert api(member).post(f"{MODELS}/my-model/{verb}").status_code == 200


def test_starting_twice_is_one_start(api, member, model, ready_machine):
    client = api(member)
    first, second = (client.post(f"{MODELS}/{ref}/start").json() for ref in ("my-model", model.pk))
    assert first["task_id"] != second["task_id"]
    assert Instance.objects.count() == 1


def test_a_task_can_be_followed(api, member, model, ready_machine):
    task = api(member).post(f"{MODELS}/my-model/start").json()["task_id"]
    shown = api(member).get(f"/api/tasks/{task}").json()
    assert (shown["kind"], shown["status"], shown["model_id"], shown["error"]) == ("start", "running", model.pk, "")
    assert shown["model_name"] == "my-model"
    assert [each["task_id"] for each in api(member).get("/api/tasks", {"kind": "start"}).json()["items"]] == [task]
    assert api(member).get("/api/tasks", {"status": "failed"}).json()["total"] == 0


def test_strangers_do_not_learn_of_tasks(api, stranger, member, model, ready_machine):
    task = api(member).post(f"{MODELS}/my-model/start").json()["task_id"]
    assert code(api(stranger).get(f"/api/tasks/{task}")) == (404, "NOT_FOUND")
    assert api(stranger).get("/api/tasks").json()["total"] == 0


def test_a_stop_asks_the_agent(api, member, model):
    instance = instance_rows.instance(model, InstanceState.READY)
    answer = api(member).post(f"{MODELS}/my-model/stop", {"force": True, "timeout": 0}).json()
    assert (answer["success"], answer["status"], answer["message"]) == (True, "stopping", "Model is stopping.")
    instance.refresh_from_db()
    assert (instance.desired, instance.force_stop, instance.stop_timeout) == ("stopped", True, 0)


def test_a_restart_asks_for_a_new_run(api, member, model):
    instance = instance_rows.instance(model, InstanceState.READY)
    assert api(member).post(f"{MODELS}/my-model/restart").json()["status"] == "starting"
    instance.refresh_from_db()
    assert (instance.desired, instance.generation) == ("running", 2)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"timeout": 0}, "timeout"),
        ({"timeout": "soon"}, "timeout"),
        ({"timeout": 10**9}, "timeout"),
        ({"force": 7}, "force"),
    ],
)
@pytest.mark.parametrize("verb", ["start", "restart"])
def test_wrong_wishes_are_refused_by_name(api, member, model, verb, body, field):
    reply = api(member).post(f"{MODELS}/my-model/{verb}", body)
    assert code(reply) == (422, "INVALID_REQUEST")
    assert list(reply.json()["error"]["details"]) == [field]


def test_without_room_the_answer_says_so(api, member, operator, model):
    instance_rows.node(usable=1024)
    reply = api(member).post(f"{MODELS}/my-model/start")
    assert code(reply) == (503, "INSUFFICIENT_RESOURCES")
    assert reply.json()["success"] is False
    assert reply.headers["Retry-After"]
    assert "box" not in reply.content.decode()  # nodes are the operators'
    whole = api(operator, **{"Serai-Tenant": "acme"}).post(f"{MODELS}/my-model/start").json()
    assert "needed" in whole["error"]["details"]["candidates"][0]
    assert not Instance.objects.exists()


def test_without_an_engine_the_answer_names_it(api, member, model, tenant):
    instance_rows.node(engines={})
    assert code(api(member).post(f"{MODELS}/my-model/start")) == (503, "ENGINE_UNAVAILABLE")
    Model.objects.create(tenant=tenant, name="odd", framework="odd")
    assert code(api(member).post(f"{MODELS}/odd/start")) == (503, "ENGINE_UNAVAILABLE")


@pytest.mark.parametrize("path", [{}, {"model_path": "not-there"}])
def test_weights_that_are_missing_keep_a_model_from_starting(api, member, tenant, ready_machine, path):
    Model.objects.create(tenant=tenant, name="empty", config=path)
    reply = api(member).post(f"{MODELS}/empty/start")
    assert code(reply) == (422, "INVALID_REQUEST")
    assert "config.model_path" in reply.json()["error"]["details"]


@pytest.mark.parametrize("verb", ["start", "stop", "restart"])
def test_viewers_and_strangers_run_nothing(api, viewer, stranger, member, model, foreign, verb):
    instance = instance_rows.instance(model, InstanceState.READY)
    assert code(api(viewer).post(f"{MODELS}/my-model/{verb}")) == (403, "AUTHORIZATION_FAILED")
    assert code(api(stranger).post(f"{MODELS}/{model.pk}/{verb}")) == (404, "MODEL_NOT_FOUND")
    Model.objects.update(visibility="public")
    assert code(api(stranger).post(f"{MODELS}/{model.pk}/{verb}")) == (403, "AUTHORIZATION_FAILED")
    assert code(api(member).post(f"{MODELS}/{foreign.pk}/{verb}")) == (403, "AUTHORIZATION_FAILED")
    instance.refresh_from_db()
    assert (instance.desired, instance.generation) == ("running", 1)


# --- info

FIELDS = {
    "model_name", "aliases", "status", "pid", "idle_time_sec", "mode", "is_available", "current_bat_path",
    "config_source", "failure_reason", "pending_requests", "replicas",
}  # fmt: skip
INFO_WORDS = {
    InstanceState.PENDING: "starting",
    InstanceState.STARTING: "starting",
    InstanceState.READY: "routing",
    InstanceState.DRAINING: "stopping",
    InstanceState.STOPPED: "stopped",
    InstanceState.FAILED: "failed",
}


def info(client, ref: str = "my-model") -> dict:
    reply = client.get(f"{MODELS}/{ref}/info")
    assert reply.status_code == 200, reply.content
    assert reply.json()["success"] is True
    return reply.json()["model"]


def serving(model: Model, **fields) -> Instance:
    return instance_rows.instance(
        model, InstanceState.READY, pid=12345, launch={"argv": ["python", "-m", "engine"], "env": {}},
        placement={"device_kind": "cpu", "device_indexes": [0]}, ready_at=timezone.now() - timedelta(seconds=120),
        **fields,
    )  # fmt: skip


def beat(**fields) -> GatewayHeartbeat:
    at = fields.pop("beat_at", timezone.now())
    return GatewayHeartbeat.objects.create(id=uuid.uuid4(), host="box", pid=1, beat_at=at, **fields)


def test_info_has_all_of_the_documents_fields(api, operator, model):
    instance = serving(model)
    model.aliases.create(tenant_id=model.tenant_id, name="nick")
    beat(inflight={instance.pk: 2}, waiting={model.pk: 1})
    beat(inflight={instance.pk: 5}, beat_at=timezone.now() - timedelta(minutes=1))
    found = info(api(operator), "nick")
    assert found == {
        "model_name": "my-model", "aliases": ["nick"], "status": "routing", "pid": 12345, "idle_time_sec": 0,
        "mode": "Chat", "is_available": True, "current_bat_path": "python -m engine", "config_source": "cpu:0",
        "failure_reason": None, "pending_requests": 3, "replicas": {"wanted": 1, "ready": 1},
    }  # fmt: skip


def test_idle_time_counts_from_the_last_request_or_the_start(api, viewer, model):
    instance = serving(model)
    assert 120 <= info(api(viewer))["idle_time_sec"] < 180
    beat(idle={instance.pk: 30.7})
    beat(idle={instance.pk: 90})
    assert info(api(viewer))["idle_time_sec"] == 30


def test_pids_and_command_lines_are_the_operators(api, owner, viewer, key, model):
    serving(model)
    for who in (owner, viewer, key()):
        found = info(api(who))
        assert (found["pid"], found["current_bat_path"], found["status"]) == (None, None, "routing")
        assert found.keys() == FIELDS


@pytest.mark.parametrize(("state", "word"), INFO_WORDS.items())
def test_info_speaks_the_managers_words(api, viewer, model, state, word):
    assert info(api(viewer))["status"] == "stopped"
    instance_rows.instance(model, state)
    found = info(api(viewer))
    assert (found["status"], found["is_available"]) == (word, state == InstanceState.READY)


def test_info_tells_why_a_model_failed(api, viewer, model):
    instance_rows.instance(model, InstanceState.FAILED, failure_reason="The engine ran out of memory.")
    assert info(api(viewer))["failure_reason"] == "The engine ran out of memory."


def test_all_models_are_told_with_totals(api, viewer, stranger, model, foreign):
    instance = serving(model)
    Model.objects.create(tenant=model.tenant, name="idle")
    beat(inflight={instance.pk: 2})
    reply = api(viewer).get(f"{MODELS}/all-models/info").json()
    assert reply["models"].keys() == {"my-model", "idle"}
    assert all(each.keys() == FIELDS for each in reply["models"].values())
    totals = {name: reply[name] for name in ("success", "total_models", "running_models", "total_pending_requests")}
    assert totals == {"success": True, "total_models": 2, "running_models": 1, "total_pending_requests": 2}
    assert api(stranger).get(f"{MODELS}/all-models/info").json()["models"].keys() == {"theirs"}
    assert code(api(stranger).get(f"{MODELS}/my-model/info")) == (404, "MODEL_NOT_FOUND")


def test_models_of_one_name_in_several_tenants_are_all_told(api, operator, stranger, model):
    twin = Model.objects.create(tenant=stranger.default_tenant, name="my-model")
    reply = api(operator, **{"Serai-Tenant": "acme"}).get(f"{MODELS}/all-models/info").json()
    assert reply["total_models"] == len(reply["models"])
    everything = api(operator).get(f"{MODELS}/all-models/info").json()
    assert everything["total_models"] == len(everything["models"]) == 2
    assert everything["models"].keys() & {twin.pk, model.pk}


# --- usage

TODAY = datetime.now(UTC).date()


def used(model: Model, day: date = TODAY, **fields) -> None:
    options = {
        "request_id": uuid.uuid4(), "started_at": datetime(day.year, day.month, day.day, 12, tzinfo=UTC),
        "tenant_id": model.tenant_id, "model_id": model.pk, "model_name": model.name, "route": "chat", "stream": False,
        "status": "ok", "http_status": 200, "prompt_tokens": 10, "completion_tokens": 5, "cached_tokens": 4,
    }  # fmt: skip
    UsageRecord.objects.create(started_on=day, **{**options, **fields})


def sums(row: dict) -> tuple:
    return tuple(row[name] for name in ("requests", "errors", "prompt_tokens", "completion_tokens", "cached_tokens"))


def test_usage_is_summed_per_model_key_and_day(api, viewer, model, tenant):
    other = Model.objects.create(tenant=tenant, name="other")
    used(model, key_id="key-1")
    used(model, key_id="key-1", status="upstream_error")
    used(model, key_id="key-2", http_status=504)
    used(other, TODAY - timedelta(days=1), status="client_closed")
    client = api(viewer)
    by_model = client.get(USAGE).json()
    assert [(row["model_name"], sums(row)) for row in by_model["items"]] == [
        ("my-model", (3, 2, 30, 15, 12)), ("other", (1, 0, 10, 5, 4)),
    ]  # fmt: skip
    assert sums(by_model["total"]) == (4, 2, 40, 20, 16)
    by_key = client.get(USAGE, {"group_by": "key"}).json()["items"]
    assert {row["key_id"]: row["requests"] for row in by_key} == {"key-1": 2, "key-2": 1, None: 1}
    by_day = client.get(USAGE, {"group_by": "day"}).json()["items"]
    assert [(row["started_on"], row["requests"]) for row in by_day] == [
        (str(TODAY - timedelta(days=1)), 1), (str(TODAY), 3),
    ]  # fmt: skip


def test_usage_is_cut_to_days_models_and_keys(api, viewer, model):
    for days in range(4):
        used(model, TODAY - timedelta(days=days), key_id="key-1" if days else None)
    client = api(viewer)

    def requests(**query) -> int:
        return client.get(USAGE, query).json()["total"]["requests"]

    assert requests(start_date=TODAY - timedelta(days=2), end_date=TODAY - timedelta(days=1)) == 2
    assert requests(end_date=TODAY - timedelta(days=3)) == 1
    assert requests(key_id="key-1") == 3
    assert requests(model_id=model.pk) == 4
    assert requests(model_id="model-none") == 0


@pytest.mark.parametrize(
    "query", [{"group_by": "user"}, {"start_date": "today"}, {"start_date": "2024-01-02", "end_date": "2024-01-01"}]
)
def test_a_wrong_question_about_usage_is_refused(api, viewer, query):
    assert code(api(viewer).get(USAGE, query)) == (422, "INVALID_REQUEST")


def test_tenants_see_their_own_usage_and_operators_all(api, viewer, stranger, operator, model, foreign):
    used(model)
    used(foreign)
    used(model, tenant_id=foreign.tenant_id)  # the stranger asked Acme's public model
    assert sums(api(viewer).get(USAGE).json()["total"])[0] == 1
    assert sums(api(stranger).get(USAGE).json()["total"])[0] == 2
    by_tenant = api(operator).get(USAGE, {"group_by": "tenant"}).json()["items"]
    assert {row["tenant_id"]: row["requests"] for row in by_tenant} == {model.tenant_id: 1, foreign.tenant_id: 2}
    own = api(operator, **{"Serai-Tenant": "acme"}).get(USAGE).json()["total"]
    assert own["requests"] == 1


def test_the_ledger_is_held_against_the_engines_own_counters(api, viewer, stranger, model):
    used(model)
    used(model, tenant_id=stranger.default_tenant_id)
    for generation in (1, 2):
        EngineTokens.objects.create(
            instance=Instance.objects.first() or serving(model),
            generation=generation,
            prompt_tokens=10,
            generation_tokens=9,
        )
    (row,) = api(viewer).get(USAGE).json()["items"]
    assert row["engine"] == {"prompt_tokens": 20, "completion_tokens": 18}
    assert row["difference"] == {"prompt_tokens": 0, "completion_tokens": 8}
    (theirs,) = api(stranger).get(USAGE).json()["items"]
    assert (theirs["engine"], theirs["difference"]) == (None, None)


def test_usage_of_a_deleted_model_is_kept(api, owner, model):
    used(model)
    api(owner).delete(f"{MODELS}/my-model")
    (row,) = api(owner).get(USAGE).json()["items"]
    assert (row["model_name"], row["requests"], row["engine"]) == ("my-model", 1, None)
    assert not Node.objects.exists()
