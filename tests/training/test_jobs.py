"""Training jobs over REST: what is taken and refused before anything starts, what people may do, and with whose."""

import json

import httpx
import pytest
from django.utils import timezone

from accounts import tokens
from accounts.models import AuditRecord
from core.units import GIB
from models_app.models import Mode, Model, ModelAlias, Visibility
from tests.support import instance_rows, job_rows, weight_files
from tests.support.job_rows import order
from tests.support.uvicorn_server import address  # noqa: F401
from training.datasets import storage
from training.jobs import services
from training.models import DesiredJobState, JobState, TrainingJob, TrainingProgress

JOBS = "/api/training/jobs"


@pytest.fixture(autouse=True)
def folders(settings, tmp_path):
    settings.DATA_DIR = tmp_path
    return tmp_path


@pytest.fixture
def base(tenant) -> Model:
    return job_rows.base(tenant)


@pytest.fixture
def facts(tenant):
    return job_rows.dataset(tenant)


@pytest.fixture
def box(folders):
    node = instance_rows.node(usable=64 * GIB)
    node.data_folder = str(folders)
    node.save()
    return node


@pytest.fixture
def job(api, member, base, facts) -> TrainingJob:
    """In the queue."""
    reply = api(member).post(JOBS, order())
    assert reply.status_code == 201, reply.json()
    return TrainingJob.objects.get(pk=reply.json()["id"])


def details(reply) -> dict:
    return reply.json()["error"]["details"]


# --- an order


def test_an_order_becomes_a_job_in_the_queue(api, member, tenant, base, facts):
    made = api(member).post(JOBS, order()).json()
    assert made["id"].startswith("job-")
    expected = {
        "tenant": tenant.slug, "status": "queued", "state": "queued", "base_model": base.pk, "base_model_name": "base",
        "dataset": facts.pk, "dataset_name": "facts", "dataset_version": 1, "adapter": "capitals", "step": 0,
        "total_steps": None, "loss": None, "started_at": None, "finished_at": None, "created_by": "max", "node": None,
    }  # fmt: skip
    assert {name: made[name] for name in expected} == expected
    assert made["waiting"] == {"position": 1, "reason": "It waits for its turn."}
    assert api(member).get(f"{JOBS}/{made['id']}").json() == made
    record = AuditRecord.objects.get(action="training.start")
    assert (record.object_id, record.user) == (made["id"], member)


def test_what_is_left_out_of_the_recipe_is_as_documented_within_what_the_model_takes(api, member, base, facts):
    recipe = api(member).post(JOBS, order(recipe=None)).json()["recipe"]
    assert recipe == {
        "batch_size": 4, "learning_rate": 5e-3, "epochs": 50, "max_seq_length": 512, "rank": 64, "alpha": 16,
        "dropout": 0.05, "save_steps": 100, "eval_steps": 100, "seed": 42, "target_modules": [], "bias": "none",
    }  # fmt: skip


def test_auto_is_settled_into_numbers_by_the_size_of_the_model_and_the_rows(api, member, base, facts):
    auto = {"learning_rate": "auto", "epochs": "auto"}
    recipe = api(member).post(JOBS, order(recipe={**job_rows.SMALL, **auto})).json()["recipe"]
    assert (recipe["learning_rate"], recipe["epochs"]) == (5e-3, 15)


def test_the_newest_version_of_a_name_is_taught_and_an_older_one_by_its_id(api, member, tenant, base, facts):
    job_rows.dataset(tenant, version=2)
    assert api(member).post(JOBS, order()).json()["dataset_version"] == 2
    assert api(member).post(JOBS, order(dataset=facts.pk)).json()["dataset_version"] == 1


def test_a_base_is_named_by_name_alias_id_or_the_path_of_its_files(api, member, tenant, base, facts):
    ModelAlias.objects.create(tenant=tenant, model=base, name="nickname")
    other = job_rows.base(tenant, "other", model_path="/models/elsewhere")
    weight_files.folder(storage.settings.DATA_DIR / "tenants" / tenant.slug / "models" / "elsewhere")
    for ref, name in (("base", "base"), ("nickname", "base"), (base.pk, "base"), ("/models/elsewhere", "other")):
        assert api(member).post(JOBS, order(base_model=ref)).json()["base_model_name"] == name
    assert api(member).post(JOBS, order(base_model="elsewhere")).json()["base_model"] == other.pk


def test_another_tenants_public_model_may_be_taught(api, stranger, base, tenant):
    Model.objects.update(visibility=Visibility.PUBLIC)
    theirs = job_rows.dataset(stranger.default_tenant)
    made = api(stranger).post(JOBS, order()).json()
    assert (made["base_model"], made["dataset"], made["tenant"]) == (base.pk, theirs.pk, "evil")


def test_a_base_that_serves_no_adapters_is_warned_of(api, member, tenant, facts):
    job_rows.base(tenant, "plain", enable_lora=False)
    (warning,) = api(member).post(JOBS, order(base_model="plain")).json()["warnings"]
    assert "enable_lora" in warning
    job_rows.base(tenant, "narrow", max_lora_rank=8)
    recipe = {**job_rows.SMALL, "rank": 16}
    (warning,) = api(member).post(JOBS, order(base_model="narrow", recipe=recipe)).json()["warnings"]
    assert "rank is 16" in warning


WRONG = {
    "a number for a name": ({"base_model": 7}, "base_model"),
    "a list for a data set": ({"dataset": ["facts"]}, "dataset"),
    "no adapter": ({"adapter": ""}, "adapter"),
    "an adapter that leads upwards": ({"adapter": "../x"}, "adapter"),
    "an adapter's reserved name": ({"adapter": "default"}, "adapter"),
    "a recipe that is none": ({"recipe": "fast"}, "recipe"),
    "negative epochs": ({"recipe": {"epochs": -1}}, "recipe.epochs"),
    "a rank beyond the range": ({"recipe": {"rank": 1024}}, "recipe.rank"),
    "a rank that is a text": ({"recipe": {"rank": "8"}}, "recipe.rank"),
    "a hyperparameter that is unknown": ({"recipe": {"warmup": 1}}, "recipe.warmup"),
    "a base outside": ({"base_model": "/etc/passwd"}, "base_model"),
    "a base upwards": ({"base_model": "/models/../../x"}, "base_model"),
    "a data set outside": ({"dataset": "/etc/passwd"}, "dataset"),
    "a data set upwards": ({"dataset": "../facts"}, "dataset"),
    "a name over two lines": ({"dataset": "facts\nof life"}, "dataset"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_field_is_refused_by_name_and_nothing_starts(api, member, base, facts, case):
    fields, named = WRONG[case]
    reply = api(member).post(JOBS, order(**fields))
    assert (reply.status_code, reply.json()["error"]["code"], list(details(reply))) == (422, "INVALID_REQUEST", [named])
    assert TrainingJob.objects.count() == 0


@pytest.mark.parametrize("body", [b"{", b"[]", b'"text"', b""])
def test_what_is_no_object_is_refused(api, member, body):
    reply = api(member).post(JOBS, data=body, content_type="application/json")
    assert reply.status_code in (400, 422)
    assert reply.json()["error"]["code"] == "INVALID_REQUEST"


def test_a_huge_body_is_refused_unread(address, member):  # noqa: F811
    headers = {"Authorization": f"Bearer {tokens.open_session(member)['access_token']}"}
    for path in (JOBS, "/api/v1/training/start"):
        reply = httpx.post(f"http://{address}{path}", json=order(recipe={"x" * 3_000_000: 1}), headers=headers)
        assert (reply.status_code, reply.json()["error"]["code"]) == (413, "INVALID_REQUEST")
    assert TrainingJob.objects.count() == 0


def test_models_that_cannot_be_taught_are_refused(api, member, tenant, base, facts):
    Model.objects.create(tenant=tenant, name="ranker", mode=Mode.RERANKER, config={"model_path": "base"})
    Model.objects.create(tenant=tenant, name="gguf", framework="llama.cpp", config={"model_path": "base"})
    Model.objects.create(tenant=tenant, name="packaged", config={"model_path": "minilm"})
    Model.objects.create(tenant=tenant, name="later", config={"model_path": "not-there-yet"})
    for name in ("ranker", "gguf", "packaged", "later"):
        reply = api(member).post(JOBS, order(base_model=name))
        assert (reply.status_code, reply.json()["error"]["code"]) == (422, "INVALID_REQUEST"), name
    assert TrainingJob.objects.count() == 0


def test_rows_that_the_model_cannot_take_are_told_by_line(api, member, tenant, base):
    job_rows.dataset(tenant, "long", text=json.dumps({"prompt": "a", "completion": "word " * 2000}) + "\n", rows=1)
    reply = api(member).post(JOBS, order(dataset="long"))
    assert (reply.status_code, list(details(reply))) == (422, ["line 1"])


def test_a_data_set_whose_file_is_a_link_or_gone_is_refused(api, member, base, facts, folders):
    path = storage.path_of(facts)
    path.unlink()
    assert api(member).post(JOBS, order()).status_code == 404
    (folders / "elsewhere").write_text(job_rows.ROW)
    path.symlink_to(folders / "elsewhere")
    reply = api(member).post(JOBS, order())
    assert (reply.status_code, reply.json()["message"]) == (404, "The file of this data set is gone.")
    assert str(folders) not in reply.content.decode()


def test_a_name_that_a_model_has_is_not_for_an_adapter(api, member, base, facts):
    reply = api(member).post(JOBS, order(adapter="base"))
    assert (reply.status_code, reply.json()["error"]["code"]) == (409, "MODEL_ALREADY_EXISTS")


def test_a_job_that_no_device_could_ever_hold_is_refused_with_the_figures(api, member, base, facts, box):
    box.devices.update(usable_bytes=GIB // 2)
    reply = api(member).post(JOBS, order())
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "INSUFFICIENT_RESOURCES")
    assert details(reply)["cpu_usable_mib"] == 512
    assert details(reply)["cpu_needed_mib"] > 512
    assert TrainingJob.objects.count() == 0
    box.devices.update(usable_bytes=4 * GIB)
    assert api(member).post(JOBS, order()).status_code == 201


def test_a_tenant_has_no_more_unended_jobs_than_it_may(api, member, job, monkeypatch):
    monkeypatch.setattr(services, "MAX_UNENDED_JOBS", 1)
    reply = api(member).post(JOBS, order())
    assert (reply.status_code, reply.json()["error"]["code"]) == (429, "RATE_LIMITED")
    api(member).post(f"{JOBS}/{job.pk}/cancel")
    assert api(member).post(JOBS, order()).status_code == 201


# --- rows that are cut or left out

# Words are tokens here, and each message has one more: these have 6, 36 and 36, of which the last has 1 to be learnt.
SHORT, LONG_ANSWER = {"prompt": "a b", "completion": "c d"}, {"prompt": "a", "completion": "word " * 33}
LONG_PROMPT = {"prompt": "word " * 33, "completion": "c"}
LENGTH = {**job_rows.SMALL, "max_seq_length": 16}


def mixed(tenant, *rows: dict, name: str = "mixed"):
    text = "".join(json.dumps(row) + "\n" for row in rows)
    made = job_rows.dataset(tenant, name, text=text, rows=1)
    made.rows = len(rows)
    made.save()
    return made


def test_rows_that_are_cut_or_left_out_are_counted_before_the_start(api, member, stranger, tenant, base):
    mixed(tenant, SHORT, LONG_ANSWER, LONG_PROMPT, LONG_PROMPT, SHORT | {"weight": 0})
    made = api(member).post(JOBS, order(dataset="mixed", recipe=LENGTH)).json()
    assert made["warnings"] == [
        "1 of 5 rows are longer than 16 tokens and are taught without their end.",
        "3 of 5 rows have nothing to learn within 16 tokens: left out.",
    ]
    shown = api(member).get(f"{JOBS}/{made['id']}").json()
    assert (shown["rows_cut"], shown["rows_left_out"]) == (1, 3)
    versioned = api(member).get(f"/api/v1/training/status/{made['id']}").json()
    assert (versioned["rowsCut"], versioned["rowsLeftOut"]) == (1, 3)
    assert api(stranger).get(f"{JOBS}/{made['id']}").status_code == 404
    (event,) = [
        event
        for event in api(member).get(f"/v1/fine_tuning/jobs/{made['id']}/events").json()["data"]
        if event["level"] == "warn"
    ]
    assert event["message"] == "1 of 5 rows are cut and 3 of 5 rows are left out at 16 tokens."


def test_the_engine_documents_start_warns_as_well(api, member, tenant, base):
    mixed(tenant, SHORT, LONG_PROMPT)
    body = {"baseModel": "base", "datasetPath": "/data/mixed.jsonl", "outputDir": "/checkpoints/x",
            "hyperParams": {"maxSeqLength": 16, "loraRank": 8}}  # fmt: skip
    assert api(member).post("/api/v1/training/start", body).json()["warnings"] == [
        "1 of 2 rows have nothing to learn within 16 tokens: left out."
    ]


def test_a_job_whose_rows_are_all_too_long_is_refused(api, member, tenant, base):
    mixed(tenant, LONG_PROMPT, LONG_PROMPT)
    reply = api(member).post(JOBS, order(dataset="mixed", recipe=LENGTH))
    assert (reply.status_code, list(details(reply))) == (422, ["recipe.max_seq_length"])
    assert details(reply)["recipe.max_seq_length"] == "No row has an answer within the first 16 tokens."
    assert TrainingJob.objects.count() == 0


def test_more_rows_than_are_counted_are_said_so(api, member, base, facts, monkeypatch):
    monkeypatch.setattr("training.datasets.tokens.MAX_ROWS", 3)
    assert api(member).post(JOBS, order()).json()["warnings"] == ["Only the first 3 rows were counted."]


def test_where_rows_cannot_be_counted_it_is_said_and_the_job_starts(api, member, base, facts, settings):
    settings.TOKEN_COUNTER = "tests.training.test_jobs.no_counter"
    made = api(member).post(JOBS, order()).json()
    assert made["warnings"] == [
        "Rows longer than 64 tokens are cut or left out. "
        "They could not be counted: The program that counts tokens could not be started."
    ]
    assert (made["rows_cut"], made["rows_left_out"]) == (None, None)


def no_counter(_model) -> list[str]:
    return ["/nowhere/python"]


def test_a_base_without_a_chat_template_is_refused_before_the_start(api, member, tenant, base, facts, folders):
    (folders / "tenants" / tenant.slug / "models" / "base" / "no_chat_template").touch()
    reply = api(member).post(JOBS, order())
    assert (reply.status_code, list(details(reply))) == (422, ["base_model"])
    assert details(reply)["base_model"] == "The base model has no chat template."


def test_tokens_are_counted_at_the_recipes_length(api, viewer, stranger, tenant, base):
    made = mixed(tenant, SHORT, LONG_ANSWER, LONG_PROMPT)
    path = f"/api/datasets/{made.pk}/tokens"
    counted = api(viewer).get(path, {"base_model": "base", "max_seq_length": 16}).json()
    assert counted == {
        "rows": 3, "tokens": 78, "learnt_tokens": 36, "longest": 36, "limit": 16, "rows_cut": 1, "rows_left_out": 1,
        "too_long_rows": 2, "too_long": {"2": 36, "3": 36},
    }  # fmt: skip
    whole = api(viewer).get(path, {"base_model": "base", "max_seq_length": 10_000}).json()
    assert (whole["limit"], whole["rows_cut"], whole["rows_left_out"]) == (512, 0, 0)
    assert api(stranger).get(path, {"base_model": "base"}).status_code == 404
    assert api(viewer).get(path, {"base_model": "base", "max_seq_length": 0}).status_code == 422


# --- strangers


def test_another_tenants_model_and_data_set_are_as_if_missing(api, stranger, base, facts):
    own = job_rows.dataset(stranger.default_tenant, "own")
    for fields in ({"base_model": base.pk, "dataset": own.pk}, {"base_model": "nothing", "dataset": own.pk}):
        reply = api(stranger).post(JOBS, order(**fields))
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "MODEL_NOT_FOUND")
    Model.objects.update(visibility=Visibility.PUBLIC)
    replies = [api(stranger).post(JOBS, order(dataset=ref)) for ref in (facts.pk, "facts", "nothing")]
    assert [(reply.status_code, reply.json()["message"]) for reply in replies] == [
        (404, "There is no such data set.")
    ] * 3
    assert TrainingJob.objects.count() == 0


def test_an_operators_job_belongs_to_one_tenant_and_its_things(api, operator, tenant, stranger, base, facts):
    client = api(operator, **{"Serai-Tenant": tenant.slug})
    assert client.post(JOBS, order()).json()["tenant"] == tenant.slug
    foreign = job_rows.dataset(stranger.default_tenant, "foreign")
    assert client.post(JOBS, order(dataset=foreign.pk)).status_code == 404


def test_a_stranger_sees_and_touches_nothing(api, stranger, job):
    client = api(stranger)
    assert client.get(JOBS).json()["total"] == 0
    paths = [f"{JOBS}/{job.pk}{part}" for part in ("", "/progress", "/logs", "/logs/stream")]
    assert [client.get(path).status_code for path in paths] == [404] * 4
    assert [client.post(f"{JOBS}/{job.pk}/{verb}").status_code for verb in ("pause", "resume", "cancel")] == [404] * 3
    assert client.delete(f"{JOBS}/{job.pk}").status_code == 404
    job.refresh_from_db()
    assert (job.state, job.desired) == (JobState.QUEUED, DesiredJobState.RUNNING)


def test_a_key_that_is_limited_to_models_knows_their_jobs_only(api, key, tenant, base, job):
    other = Model.objects.create(tenant=tenant, name="other")
    limited, entitled = (api(key(allowed_models=[model.pk])) for model in (other, base))
    assert limited.get(JOBS).json()["total"] == 0 and entitled.get(JOBS).json()["total"] == 1
    assert limited.post(f"{JOBS}/{job.pk}/cancel").status_code == 404
    assert entitled.get(f"{JOBS}/{job.pk}").status_code == 200


def test_a_viewer_reads_and_does_nothing_else(api, viewer, job):
    assert api(viewer).get(f"{JOBS}/{job.pk}").status_code == 200
    assert api(viewer).post(JOBS, order()).status_code == 403
    assert api(viewer).post(f"{JOBS}/{job.pk}/cancel").status_code == 403


# --- what may be done when


def test_in_the_queue_a_pause_and_a_cancel_take_effect_at_once(api, member, job):
    client = api(member)
    assert client.post(f"{JOBS}/{job.pk}/pause").json()["state"] == "paused"
    again = client.post(f"{JOBS}/{job.pk}/resume").json()
    assert (again["state"], again["waiting"]["position"]) == ("queued", 1)
    ended = client.post(f"{JOBS}/{job.pk}/cancel").json()
    assert (ended["state"], ended["waiting"]) == ("cancelled", None)
    assert ended["finished_at"]
    job.refresh_from_db()
    assert job.generation == 2
    actions = AuditRecord.objects.order_by("pk").values_list("action", flat=True)
    assert list(actions) == ["training.start", "training.pause", "training.resume", "training.cancel"]


def test_of_a_running_one_they_are_asked_and_told_as_done(api, member, job, box):
    job_rows.on_a_node(job, box)
    client = api(member)
    shown = client.post(f"{JOBS}/{job.pk}/pause").json()
    assert (shown["status"], shown["state"]) == ("paused", "running")
    taken_back = client.post(f"{JOBS}/{job.pk}/resume").json()
    assert (taken_back["status"], taken_back["state"]) == ("running", "running")
    shown = client.post(f"{JOBS}/{job.pk}/cancel").json()
    assert (shown["status"], shown["state"]) == ("cancelled", "running")
    job.refresh_from_db()
    assert (job.desired, job.generation, job.node) == (DesiredJobState.CANCELLED, 1, box)


IMPOSSIBLE = [
    *((state, verb) for state in (JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED) for verb in
      ("pause", "resume", "cancel")),
    (JobState.PAUSED, "pause"), (JobState.QUEUED, "resume"),
]  # fmt: skip


@pytest.mark.parametrize(("state", "verb"), IMPOSSIBLE)
def test_what_its_state_does_not_allow_is_a_conflict(api, member, job, state, verb):
    TrainingJob.objects.update(state=state)
    reply = api(member).post(f"{JOBS}/{job.pk}/{verb}")
    assert (reply.status_code, reply.json()["error"]["code"]) == (409, "CONFLICT")
    assert state in reply.json()["message"]
    versioned = api(member).post(f"/api/v1/training/{verb}/{job.pk}")
    assert (versioned.status_code, versioned.json()["error"]["code"]) == (400, "TRAINING_JOB_RUNNING")


def test_a_cancel_is_final(api, member, job, box):
    job_rows.on_a_node(job, box, desired=DesiredJobState.CANCELLED)
    for verb in ("pause", "resume", "cancel"):
        assert api(member).post(f"{JOBS}/{job.pk}/{verb}").status_code == 409


def test_only_an_ended_job_is_deleted_with_its_files(api, member, job, django_capture_on_commit_callbacks):
    folder = storage.folder_of(job)
    (folder / "gen-1").mkdir(parents=True)
    (folder / "gen-1" / "spec.json").touch()
    assert api(member).delete(f"{JOBS}/{job.pk}").status_code == 409
    api(member).post(f"{JOBS}/{job.pk}/cancel")
    with django_capture_on_commit_callbacks(execute=True):
        assert api(member).delete(f"{JOBS}/{job.pk}").json() == {"message": "Training job deleted."}
    assert (TrainingJob.objects.count(), folder.exists()) == (0, False)


def test_what_a_living_job_needs_is_not_deleted(api, admin, member, base, facts, job):
    client = api(admin)
    assert client.delete(f"/api/datasets/{facts.pk}").status_code == 409
    for force in ("", "?force=true"):
        assert client.delete(f"/api/models/base{force}").status_code == 409
    client.post(f"{JOBS}/{job.pk}/cancel")
    assert client.delete(f"/api/datasets/{facts.pk}").status_code == 200
    assert client.delete("/api/models/base").status_code == 200
    left = client.get(f"{JOBS}/{job.pk}").json()
    assert (left["dataset"], left["base_model"]) == (None, None)
    assert (left["dataset_name"], left["base_model_name"]) == ("facts", "base")


def test_a_public_model_that_a_strangers_job_needs_stays_and_names_no_job(api, admin, stranger, base):
    Model.objects.update(visibility=Visibility.PUBLIC)
    job_rows.dataset(stranger.default_tenant)
    made = api(stranger).post(JOBS, order()).json()
    reply = api(admin).delete("/api/models/base")
    assert (reply.status_code, made["id"] in reply.content.decode()) == (409, False)
    assert "of another tenant" in reply.json()["message"]


# --- reading


def test_a_list_is_paged_and_filtered_by_the_status_that_is_shown(api, member, viewer, job, box):
    paused = TrainingJob.objects.get(pk=api(member).post(JOBS, order(adapter="other")).json()["id"])
    job_rows.on_a_node(paused, box, desired=DesiredJobState.PAUSED)

    def listed(**query) -> list[str]:
        return [item["id"] for item in api(viewer).get(JOBS, query).json()["items"]]

    assert listed() == [paused.pk, job.pk]
    assert (listed(status="queued"), listed(status="paused"), listed(status="running")) == ([job.pk], [paused.pk], [])
    assert listed(adapter="other") == [paused.pk]
    assert listed(page=2, size=1) == [job.pk]
    assert listed(base_model="nothing") == []
    for query in ({"status": "done"}, {"size": 0}):
        assert api(viewer).get(JOBS, query).status_code == 422


def test_a_list_needs_no_more_queries_for_many_jobs(api, member, viewer, base, facts, django_assert_max_num_queries):
    for number in range(8):
        api(member).post(JOBS, order(adapter=f"a{number}"))
    client = api(viewer)
    with django_assert_max_num_queries(14):
        assert len(client.get(JOBS).json()["items"]) == 8


def test_the_progress_is_a_series_that_can_be_followed(api, viewer, job):
    for step in (1, 2, 3):
        TrainingProgress.objects.create(job=job, step=step, epoch=step / 3, loss=1 / step, at=timezone.now())
    reply = api(viewer).get(f"{JOBS}/{job.pk}/progress").json()
    assert [point["step"] for point in reply["progress"]] == [1, 2, 3]
    assert reply["progress"][1]["loss"] == 0.5
    later = api(viewer).get(f"{JOBS}/{job.pk}/progress", {"after": 1, "limit": 1}).json()
    assert [point["step"] for point in later["progress"]] == [2]
    for query in ({"after": "x"}, {"limit": 0}):
        assert api(viewer).get(f"{JOBS}/{job.pk}/progress", query).status_code == 422


def test_only_operators_see_the_node(api, member, operator, job, box):
    job_rows.on_a_node(job, box)
    assert api(operator).get(f"{JOBS}/{job.pk}").json()["node"] == "box"
    assert api(member).get(f"{JOBS}/{job.pk}").json()["node"] is None
    assert str(storage.folder_of(job)) not in api(member).get(f"{JOBS}/{job.pk}").content.decode()
