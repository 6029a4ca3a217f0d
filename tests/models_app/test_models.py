"""The catalogue over REST: the service document's examples, who sees what, names, and changes that race."""

import concurrent.futures
import http.client
import json
import uuid
from datetime import timedelta
from urllib.parse import quote

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts import services
from accounts.models import AuditRecord, Role, Tenant
from inference.models import InstanceState, UsageRecord
from models_app import artefacts
from models_app.models import Model
from tests.support import instance_rows, weight_files
from tests.support.user_fixtures import person
from tests.support.uvicorn_server import address  # noqa: F401
from tests.support.waiting import eventually

MODELS = "/api/models"
EXAMPLE = {
    "name": "my-model",
    "display_name": "我的模型",
    "description": "模型描述",
    "framework": "llama.cpp",
    "priority": 5,
    "config": {"model_path": "/models/model.bin", "n_ctx": 2048, "n_threads": 4, "n_gpu_layers": 32},
    "resource_requirements": {"gpu_count": 1, "gpu_memory": 4096, "cpu_cores": 4},
    "tags": ["production", "chat"],
}


@pytest.fixture
def create(api, owner):
    """create(name, …) makes a model of Acme's and returns its row."""

    def make(name: str = "m", who=owner, **fields) -> Model:
        body = {"name": name, "config": {"model_path": "serai-demo"}, **fields}
        reply = api(who).post(MODELS, body)
        assert reply.status_code == 201, reply.content
        return Model.objects.get(pk=reply.json()["id"])

    return make


def code(reply) -> tuple[int, str]:
    return reply.status_code, reply.json()["error"]["code"]


# --- the document's examples


def test_a_model_is_created_as_the_document_shows(api, owner):
    reply = api(owner).post(MODELS, EXAMPLE)
    assert reply.status_code == 201
    made = reply.json()
    assert made["id"].startswith("model-")
    assert (made["name"], made["status"], made["message"]) == ("my-model", "created", "Model created.")
    assert "model.bin" in made["warnings"][0]
    assert AuditRecord.objects.get(action="model.create").object_id == made["id"]


def test_a_model_is_shown_as_the_document_shows(api, owner):
    api(owner).post(MODELS, EXAMPLE)
    shown = api(owner).get(f"{MODELS}/my-model").json()
    assert EXAMPLE.items() <= shown.items()
    assert (shown["status"], shown["health"]) == ("created", "unknown")
    assert shown["resource_usage"] == {"gpu_memory": 0, "cpu_cores": 0, "memory": 0}
    assert shown["performance_stats"] == {"avg_response_time": 0, "requests_per_second": 0, "error_rate": 0}
    assert shown["created_at"].endswith("Z")
    assert (shown["tenant"], shown["mode"], shown["visibility"], shown["aliases"]) == ("acme", "Chat", "private", [])
    assert (shown["auto_start"], shown["pinned"], shown["idle_timeout"], shown["wait_timeout"]) == (
        False,
        False,
        1800,
        180,
    )


def test_models_are_listed_in_pages(api, owner, create):
    for number in range(5):
        create(f"m{number}")
    first = api(owner).get(MODELS, {"size": 2}).json()
    assert (first["total"], first["page"], first["size"], first["pages"]) == (5, 1, 2, 3)
    assert first["items"][0].keys() == api(owner).get(f"{MODELS}/m0").json().keys()
    seen = [
        model["name"]
        for page in (1, 2, 3)
        for model in api(owner).get(MODELS, {"size": 2, "page": page}).json()["items"]
    ]
    assert seen == ["m4", "m3", "m2", "m1", "m0"]
    assert api(owner).get(MODELS, {"page": 4, "size": 2}).json()["items"] == []


@pytest.mark.parametrize(
    "query", ["page=0", "page=x", "size=101", "size=-1", "size=1e3", "status=sleepy", "search=%00"]
)
def test_a_wrong_query_is_refused_by_the_name_of_its_parameter(api, owner, query):
    reply = api(owner).get(f"{MODELS}?{query}")
    assert reply.status_code in (400, 422)
    assert query.split("=")[0] in reply.json()["error"]["details"] or "%00" in query


@pytest.mark.parametrize("verb", ["put", "patch"])
def test_a_change_merges_as_the_document_shows(api, owner, verb):
    api(owner).post(MODELS, EXAMPLE)
    change = {
        "display_name": "更新的模型名称", "description": "更新的描述", "priority": 7,
        "config": {"temperature": 0.8, "top_p": 0.9}, "tags": ["production", "chat", "updated"],
    }  # fmt: skip
    reply = getattr(api(owner), verb)(f"{MODELS}/my-model", change)
    assert reply.status_code == 200
    changed = reply.json()
    assert changed["config"] == EXAMPLE["config"] | change["config"]
    assert changed["resource_requirements"] == EXAMPLE["resource_requirements"]
    assert change["tags"] == changed["tags"]
    assert (changed["priority"], changed["display_name"], changed["name"]) == (7, "更新的模型名称", "my-model")
    kept = api(owner).get(f"{MODELS}/my-model").json()
    assert kept == {name: value for name, value in changed.items() if name != "warnings"}


def test_null_removes_an_option_and_nothing_else(api, owner, create):
    create(config={"model_path": "serai-demo", "n_ctx": 512, "temperature": 1})
    changed = api(owner).patch(f"{MODELS}/m", {"config": {"n_ctx": None}}).json()
    assert changed["config"] == {"model_path": "serai-demo", "temperature": 1}


def test_a_model_is_deleted_as_the_document_shows(api, owner, create):
    model = create()
    reply = api(owner).delete(f"{MODELS}/m")
    assert (reply.status_code, reply.json()) == (200, {"message": "Model deleted."})
    assert code(api(owner).get(f"{MODELS}/{model.pk}")) == (404, "MODEL_NOT_FOUND")
    assert AuditRecord.objects.get(action="model.delete").details["name"] == "m"


def test_a_model_that_is_shown_can_be_sent_back(api, owner, create):
    create(aliases=["nick"], tags=["x"])
    shown = api(owner).get(f"{MODELS}/m").json()
    again = api(owner).put(f"{MODELS}/m", shown)
    assert again.status_code == 200
    assert again.json() | {"updated_at": 0} == shown | {"updated_at": 0}


# --- filters


def test_filters_narrow_the_list(api, owner, create):
    create("alpha", display_name="The first", tags=["production"])
    create("beta", description="second to none", framework="llama.cpp", config={})
    create("gamma", aliases=["alphabet"], mode="Reranker")

    def names(**query) -> list[str]:
        return sorted(model["name"] for model in api(owner).get(MODELS, query).json()["items"])

    assert names(framework="llama.cpp") == ["beta"]
    assert names(tag="production") == ["alpha"]
    assert names(tag="prod") == []
    assert names(search="ALPHA") == ["alpha", "gamma"]
    assert names(search="first") == ["alpha"]
    assert names(search="second") == ["beta"]
    assert names(search="%") == []
    assert names(mode="Reranker") == ["gamma"]
    assert names(search="a", framework="vllm") == ["alpha", "gamma"]


STATES = {
    None: ("created", "unknown"),
    InstanceState.PENDING: ("starting", "unknown"),
    InstanceState.STARTING: ("starting", "unknown"),
    InstanceState.READY: ("running", "healthy"),
    InstanceState.DRAINING: ("stopping", "healthy"),
    InstanceState.STOPPED: ("stopped", "unknown"),
    InstanceState.FAILED: ("error", "unhealthy"),
}


@pytest.mark.parametrize(("state", "words"), STATES.items())
def test_the_newest_instance_tells_the_status(api, owner, create, state, words):
    model = create()
    create("other")
    if state:
        instance_rows.instance(model, InstanceState.FAILED)
        instance_rows.instance(model, state)
    shown = api(owner).get(f"{MODELS}/m").json()
    assert (shown["status"], shown["health"]) == words
    found = [model["name"] for model in api(owner).get(MODELS, {"status": words[0]}).json()["items"]]
    assert "m" in found
    assert ("other" in found) == (words[0] == "created")


def test_a_running_model_whose_probes_fail_is_unhealthy(api, owner, create):
    instance_rows.instance(create(), InstanceState.READY, healthy=False)
    shown = api(owner).get(f"{MODELS}/m").json()
    assert (shown["status"], shown["health"]) == ("running", "unhealthy")


def test_what_a_model_holds_and_how_it_did_in_the_last_hour_is_shown(api, owner, create, tenant):
    model, now = create(), timezone.now()
    instance_rows.reserve(instance_rows.instance(model, InstanceState.READY), 300 * 2**20)
    for minutes, status, http_status in (
        (1, "ok", 200),
        (2, "ok", 200),
        (3, "upstream_error", 200),
        (90, "timeout", 504),
    ):
        at = now - timedelta(minutes=minutes)
        UsageRecord.objects.create(
            started_on=at.date(), request_id=uuid.uuid4(), started_at=at, tenant_id=tenant.pk, model_id=model.pk,
            model_name="m", route="chat", stream=False, status=status, http_status=http_status, duration_ms=600,
        )  # fmt: skip
    shown = api(owner).get(f"{MODELS}/m").json()
    assert shown["resource_usage"] == {"gpu_memory": 0, "cpu_cores": None, "memory": 300}
    assert shown["performance_stats"] == {"avg_response_time": 0.6, "requests_per_second": 0.0008, "error_rate": 0.3333}


def test_a_long_list_takes_no_more_queries_than_a_short_one(api, owner, create):
    def queries() -> int:
        client = api(owner)
        with CaptureQueriesContext(
            connection,
        ) as captured:
            assert client.get(MODELS).status_code == 200
        return len(captured)

    instance_rows.instance(create("m0", aliases=["a0"]), InstanceState.READY)
    few = queries()
    for number in range(1, 8):
        instance_rows.reserve(
            instance_rows.instance(create(f"m{number}", aliases=[f"a{number}"]), InstanceState.READY), 1
        )
    assert queries() <= few + 1  # the device of the reservations


# --- who


def test_strangers_see_and_change_nothing(api, stranger, create):
    model = create(aliases=["nick"])
    client = api(stranger)
    assert client.get(MODELS).json()["total"] == 0
    for ref in (model.pk, "m", "nick"):
        for reply in (
            client.get(f"{MODELS}/{ref}"), client.put(f"{MODELS}/{ref}", {}), client.patch(f"{MODELS}/{ref}", {}),
            client.delete(f"{MODELS}/{ref}"), client.delete(f"{MODELS}/{ref}?force=true"),
        ):  # fmt: skip
            assert code(reply) == (404, "MODEL_NOT_FOUND")
            assert reply.json()["error"]["details"] == {"model_id": ref}
            assert reply.json()["message"] == client.get(f"{MODELS}/there-is-none").json()["message"]
    assert Model.objects.get(pk=model.pk).updated_at == model.updated_at


@pytest.mark.parametrize("role", ["viewer", "member"])
def test_who_may_not_manage_models_may_read_them(api, create, role, request):
    create()
    client = api(request.getfixturevalue(role))
    assert client.get(f"{MODELS}/m").status_code == 200
    for reply in (client.post(MODELS, {"name": "x"}), client.put(f"{MODELS}/m", {}), client.delete(f"{MODELS}/m")):
        assert code(reply) == (403, "AUTHORIZATION_FAILED")


def test_without_a_credential_nothing_is_told(api, create):
    create()
    for reply in (api().get(MODELS), api().get(f"{MODELS}/m"), api().post(MODELS, {})):
        assert code(reply) == (401, "AUTHENTICATION_FAILED")


def test_only_an_operator_makes_a_model_public(api, admin, operator, stranger, create):
    model = create()
    assert code(api(admin).patch(f"{MODELS}/m", {"visibility": "public"})) == (403, "AUTHORIZATION_FAILED")
    assert code(api(admin).post(MODELS, {"name": "x", "visibility": "public"})) == (403, "AUTHORIZATION_FAILED")
    assert api(operator).patch(f"{MODELS}/{model.pk}", {"visibility": "public"}).status_code == 200
    assert api(stranger).get(f"{MODELS}/m").json()["tenant"] == "acme"
    for reply in (api(stranger).delete(f"{MODELS}/m"), api(stranger).patch(f"{MODELS}/m", {"priority": 1})):
        assert code(reply) == (403, "AUTHORIZATION_FAILED")
    assert api(admin).patch(f"{MODELS}/m", {"priority": 2}).json()["visibility"] == "public"
    assert api(admin).patch(f"{MODELS}/m", {"visibility": "private"}).status_code == 200
    assert api(stranger).get(f"{MODELS}/m").status_code == 404


def test_a_tenants_own_names_and_aliases_go_before_public_ones(api, owner, operator, stranger, create):
    public = create("m", who=stranger)
    other = create("other", who=stranger, aliases=["n"])
    Model.objects.filter(pk__in=[public.pk, other.pk]).update(visibility="public")
    assert api(owner).get(f"{MODELS}/m").json()["id"] == public.pk
    assert api(owner).get(f"{MODELS}/n").json()["id"] == other.pk
    own, nick = create("m"), create("x", aliases=["n"])
    assert api(owner).get(f"{MODELS}/m").json()["id"] == own.pk
    assert api(owner).get(f"{MODELS}/n").json()["id"] == nick.pk
    assert api(owner).get(f"{MODELS}/{public.pk}").json()["id"] == public.pk
    assert api(stranger).get(f"{MODELS}/m").json()["id"] == public.pk


def test_an_operator_sees_all_tenants_and_writes_to_the_one_named(api, operator, tenant, stranger, create):
    create()
    create("theirs", who=stranger)
    assert api(operator).get(MODELS).json()["total"] == 2
    assert code(api(operator).post(MODELS, {"name": "x"})) == (422, "INVALID_REQUEST")
    acting = api(operator, **{"Serai-Tenant": "acme"})
    assert acting.post(MODELS, {"name": "x", "tenant": "evil"}).status_code == 201
    assert Model.objects.get(name="x").tenant == tenant
    assert acting.get(MODELS).json()["total"] == 2


def test_a_key_limited_to_some_models_sees_no_others(api, key, create):
    opened = create("open")
    create("closed")
    client = api(key(allowed_models=[opened.pk]))
    assert [model["name"] for model in client.get(MODELS).json()["items"]] == ["open"]
    assert client.get(f"{MODELS}/open").status_code == 200
    for reply in (client.get(f"{MODELS}/closed"), client.delete(f"{MODELS}/closed")):
        assert code(reply) == (404, "MODEL_NOT_FOUND")


# --- names


@pytest.mark.parametrize(
    "name", ["a", "Qwen/Qwen2.5-0.5B", "模型 1", "a.b_c-d", "100%", "a?b#c", "x" * 200, "ä/ö/ü", "info", "..."]
)
def test_a_model_is_found_under_any_name_it_may_have(api, owner, create, name):
    made = create(name)
    for path in (quote(name, safe=""), quote(name)):
        assert api(owner).get(f"{MODELS}/{path}").json()["id"] == made.pk
        assert api(owner).get(f"{MODELS}/{path}/info").json()["model"]["model_name"] == name
    assert api(owner).delete(f"{MODELS}/{quote(name, safe='')}").status_code == 200


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("Qwen%2FTiny%201", True), ("Qwen/Tiny%201", True), ("%51wen%2fTiny%201", True),
        ("Qwen%252FTiny%201", False), ("Qwen/../Qwen/Tiny%201", False), ("%2e%2e/models/Qwen%2FTiny%201", False),
        ("%FF", False), ("%ED%A0%80", False),
    ],
)  # fmt: skip
def test_a_real_server_decodes_a_name_once(address, key, create, path, found):  # noqa: F811
    made, secret = create("Qwen/Tiny 1"), key()
    client = http.client.HTTPConnection(address, timeout=30)
    client.request("GET", f"{MODELS}/{path}", headers={"Authorization": f"Bearer {secret}"})
    reply = client.getresponse()
    shown = json.loads(reply.read())
    client.close()
    assert reply.status == (200 if found else 404)
    assert shown.get("id") == (made.pk if found else None)


@pytest.mark.parametrize(
    "name",
    [
        "", " ", " a", "a ", "/a", "a/", "a//b", "..", "a/../b", "../a", "a\nb", "a\tb", "a\x7fb", "a\u200bb",
        "a\u202eb", "x" * 201, "all-models", "stop-all", "restart-autostart", "default", "a/start", "a/info",
        "a/chat/completions", None, [], {},
    ],
)  # fmt: skip
@pytest.mark.parametrize("field", ["name", "aliases"])
def test_names_that_could_not_be_told_apart_or_seen_are_refused(api, owner, name, field):
    body = {"name": name} if field == "name" else {"name": "m", "aliases": [name]}
    reply = api(owner).post(MODELS, body)
    assert code(reply) == (422, "INVALID_REQUEST")
    assert any(detail.startswith(field) for detail in reply.json()["error"]["details"])
    assert not Model.objects.exists()


def test_a_name_is_taken_once_in_a_tenant_as_name_or_alias(api, owner, stranger, create):
    create("m", aliases=["nick"])
    create("other")
    for body in ({"name": "m"}, {"name": "nick"}, {"name": "x", "aliases": ["m"]}, {"name": "x", "aliases": ["nick"]}):
        assert code(api(owner).post(MODELS, body)) == (409, "MODEL_ALREADY_EXISTS")
    for change in ({"name": "m"}, {"name": "nick"}, {"aliases": ["m"]}, {"aliases": ["y", "nick"]}):
        assert code(api(owner).patch(f"{MODELS}/other", change)) == (409, "MODEL_ALREADY_EXISTS")
    assert code(api(owner).patch(f"{MODELS}/other", {"aliases": ["other"]})) == (422, "INVALID_REQUEST")
    create("m", who=stranger, aliases=["nick"])


def test_a_model_may_be_renamed_and_its_aliases_replaced(api, owner, create):
    create("m", aliases=["a", "b"])
    assert api(owner).patch(f"{MODELS}/m", {"aliases": ["b", "c"]}).json()["aliases"] == ["b", "c"]
    assert api(owner).patch(f"{MODELS}/b", {"name": "a"}).json()["name"] == "a"
    assert api(owner).get(f"{MODELS}/a").json()["aliases"] == ["b", "c"]
    assert code(api(owner).get(f"{MODELS}/m")) == (404, "MODEL_NOT_FOUND")
    assert api(owner).patch(f"{MODELS}/a", {"aliases": []}).json()["aliases"] == []
    assert create("b").name == "b"


def blocked_queries() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_stat_clear_snapshot()")
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        return cursor.fetchone()[0]


@pytest.mark.django_db(transaction=True)
def test_of_racing_creations_of_a_name_one_wins(transactional_db, api, owner, tenant):
    client = api(owner)

    def post(number: int) -> int:
        try:
            names = {"name": "m", "aliases": []} if number % 2 else {"name": f"x{number}", "aliases": ["m"]}
            return client.post(MODELS, names).status_code
        finally:
            connection.close()

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        with transaction.atomic():
            Tenant.objects.select_for_update().get(pk=tenant.pk)  # no row of the tenant is written meanwhile
            replies = [pool.submit(post, number) for number in range(4)]
            eventually(lambda: blocked_queries() == 4)
        assert sorted(reply.result() for reply in replies) == [201, 409, 409, 409]


@pytest.mark.django_db(transaction=True)
def test_racing_changes_of_different_options_are_all_kept(transactional_db, api, owner, create):
    create(config={})
    client = api(owner)
    options = {"n_ctx": 512, "seed": 1, "top_k": 5, "top_p": 0.5, "max_tokens": 9, "max_loras": 2}

    def patch(option: tuple) -> int:
        try:
            return client.patch(f"{MODELS}/m", {"config": dict([option])}).status_code
        finally:
            connection.close()

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert set(pool.map(patch, options.items())) == {200}
    assert Model.objects.get(name="m").config == options


DELETED_MEANWHILE = [
    ("patch", "m", {"priority": 9}), ("put", "m", {"aliases": ["n"]}), ("delete", "m", None),
    ("delete", "m?force=true", None), ("post", "m/start", {}), ("post", "m/stop", {}), ("post", "m/restart", {}),
]  # fmt: skip


@pytest.mark.django_db(transaction=True)
def test_what_meets_a_deletion_is_told_that_the_model_is_missing(transactional_db, api, owner, create):
    model, client = create(), api(owner)

    def send_request(arguments: tuple) -> tuple[int, str]:
        verb, path, body = arguments
        try:
            return code(getattr(client, verb)(f"{MODELS}/{path}", body))
        finally:
            connection.close()

    with concurrent.futures.ThreadPoolExecutor(len(DELETED_MEANWHILE)) as pool:
        with transaction.atomic():
            model.delete()
            replies = [pool.submit(send_request, arguments) for arguments in DELETED_MEANWHILE]
            eventually(lambda: blocked_queries() == len(DELETED_MEANWHILE))
        assert {reply.result() for reply in replies} == {(404, "MODEL_NOT_FOUND")}
    assert not Model.objects.exists()


# --- fields


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("priority", 0), ("priority", 11), ("priority", "high"), ("priority", True), ("priority", None),
        ("priority", 10**30), ("tags", "x"), ("tags", [1, {}]), ("tags", ["x" * 51]), ("tags", ["x"] * 51),
        ("auto_start", "maybe"), ("pinned", []), ("idle_timeout", -1), ("idle_timeout", 10**12), ("wait_timeout", 0),
        ("wait_timeout", 10_000), ("mode", "chat"), ("mode", "Video"), ("visibility", "secret"),
        ("replicas", 0), ("replicas", 65), ("replicas", {"ready": 2}), ("replicas", "two"),
        ("display_name", "x" * 201), ("description", "x" * 10_001), ("description", []),
        ("aliases", "x"), ("aliases", [""]), ("aliases", ["a", "a"]), ("aliases", [f"a{n}" for n in range(21)]),
    ],
)  # fmt: skip
def test_wrong_fields_are_refused_by_name(api, owner, create, field, value):
    reply = api(owner).post(MODELS, {"name": "x", field: value})
    assert code(reply) == (422, "INVALID_REQUEST")
    assert all(name.split(".")[0] == field for name in reply.json()["error"]["details"])
    create()
    assert code(api(owner).patch(f"{MODELS}/m", {field: value})) == (422, "INVALID_REQUEST")


@pytest.mark.parametrize("body", ["", "{", "[1", "\xff", '{"name": "m"} x'])
def test_a_body_that_is_not_json_is_400(api, owner, body):
    reply = api(owner).generic("POST", MODELS, body.encode("latin-1"), content_type="application/json")
    assert reply.status_code == (400 if body else 422)
    assert reply.json()["error"]["code"] == "INVALID_REQUEST"


@pytest.mark.parametrize("body", ["[]", "1", '"x"', "null", "true"])
def test_a_body_that_is_no_object_is_refused(api, owner, body):
    reply = api(owner).generic("POST", MODELS, body, content_type="application/json")
    assert code(reply) == (422, "INVALID_REQUEST")


def test_a_body_nested_without_end_is_refused(api, owner):
    reply = api(owner).generic("POST", MODELS, '{"a":' * 100_000, content_type="application/json")
    assert code(reply) == (400, "INVALID_REQUEST")


def test_the_mode_is_read_from_the_files_unless_it_is_given(api, owner, create, tenant, settings, tmp_path):
    settings.DATA_DIR = tmp_path
    weight_files.folder(
        artefacts.tenant_folder(tenant) / "ranker", {"architectures": ["BertForSequenceClassification"]}
    )
    config = {"model_path": "/models/ranker"}
    assert create("a", config=config).mode == "Reranker"
    assert create("b", config=config, mode="Chat").mode == "Chat"


def test_files_that_no_engine_may_see_are_refused_at_creation_and_change(
    api, owner, create, tenant, settings, tmp_path
):
    settings.DATA_DIR = tmp_path
    weight_files.folder(artefacts.tenant_folder(tenant) / "evil", modeling__py=b"import os")
    body = {"name": "x", "config": {"model_path": "evil"}}
    for reply in (
        api(owner).post(MODELS, body),
        api(owner).patch(f"{MODELS}/{create().pk}", {"config": body["config"]}),
    ):
        assert code(reply) == (422, "INVALID_REQUEST")
        assert "modeling.py" in reply.json()["error"]["details"]["config.model_path"]


def test_weights_of_the_wrong_kind_for_an_engine_are_refused(api, owner, create):
    reply = api(owner).post(MODELS, {"name": "x", "framework": "llama.cpp", "config": {"model_path": "serai-demo"}})
    assert "gguf" in reply.json()["error"]["details"]["config.model_path"]


# --- running models


def test_a_running_model_is_not_deleted_unless_forced(api, owner, create):
    model = create()
    instance = instance_rows.instance(model, InstanceState.READY)
    assert code(api(owner).delete(f"{MODELS}/m")) == (409, "CONFLICT")
    assert code(api(owner).delete(f"{MODELS}/m?force=false")) == (409, "CONFLICT")
    assert code(api(owner).delete(f"{MODELS}/m?force=perhaps")) == (422, "INVALID_REQUEST")
    instance.refresh_from_db()
    assert instance.desired == "running"


@pytest.mark.parametrize("how", ["query", "body"])
@pytest.mark.django_db(transaction=True)
def test_force_ends_a_running_model_before_it_is_deleted(transactional_db, api, owner, create, how):
    model = create()
    instance = instance_rows.instance(model, InstanceState.READY)
    ended = instance_rows.stop_on_request(instance)
    path, body = (f"{MODELS}/m?force=true", None) if how == "query" else (f"{MODELS}/m", {"force": True})
    assert api(owner).delete(path, body).status_code == 200
    assert ended() == {"desired": "stopped", "force_stop": True}
    assert not Model.objects.exists()


def test_a_model_that_has_run_can_be_deleted(api, owner, create):
    model = create()
    instance_rows.instance(model, InstanceState.STOPPED)
    instance_rows.instance(model, InstanceState.FAILED)
    assert api(owner).delete(f"{MODELS}/m").status_code == 200


def test_the_same_routes_answer_under_the_documents_version(api, owner, stranger):
    made = api(owner).post("/api/v1/models", EXAMPLE).json()
    assert api(owner).put(f"/api/v1/models/{made['id']}", {"priority": 9}).json()["priority"] == 9
    wrong = api(owner).put(f"/api/v1/models/{made['id']}", {"priority": 99})
    assert wrong.status_code == 400
    assert wrong.json()["error"]["details"][0]["field"] == "priority"
    assert code(api(stranger).delete(f"/api/v1/models/{made['id']}")) == (404, "MODEL_NOT_FOUND")
    assert api(owner).delete(f"/api/v1/models/{made['id']}").status_code == 200


def test_an_admin_of_two_tenants_acts_for_the_one_named(api, tenant, stranger, create):
    both = person("both", tenant, Role.ADMIN)
    services.add_member(stranger.default_tenant, both, Role.ADMIN)
    create("m", who=stranger)
    assert api(both).get(f"{MODELS}/m").status_code == 404
    assert api(both, **{"Serai-Tenant": "evil"}).get(f"{MODELS}/m").status_code == 200
