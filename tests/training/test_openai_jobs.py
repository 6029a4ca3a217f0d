"""OpenAI's fine-tuning jobs by its stock client: the same rows as on every other surface, in its words."""

import json
from datetime import timedelta

import openai
import pytest
from django.utils import timezone

from models_app.models import Adapter, AdapterVersion, Model
from tests.support.uvicorn_server import address  # noqa: F401
from training.models import JobState, TrainingJob, TrainingProgress

JOBS = "/v1/fine_tuning/jobs"
GOOD = {"messages": [{"role": "user", "content": "Capital of France?"}, {"role": "assistant", "content": "Paris."}]}
JSONL = (json.dumps(GOOD) + "\n").encode() * 8


@pytest.fixture(autouse=True)
def folders(settings, tmp_path):
    settings.DATA_DIR = tmp_path


@pytest.fixture
def base(tenant) -> Model:
    return Model.objects.create(tenant=tenant, name="demo", config={"model_path": "serai-demo"})


@pytest.fixture
def sdk(address, key, base):  # noqa: F811
    secret = key(scopes=["training", "inference"])
    with openai.OpenAI(base_url=f"http://{address}/v1", api_key=secret, max_retries=0) as client:
        yield client


@pytest.fixture
def file_id(sdk) -> str:
    return sdk.files.create(file=("facts.jsonl", JSONL), purpose="fine-tune").id


@pytest.fixture
def job(sdk, file_id):
    return sdk.fine_tuning.jobs.create(model="demo", training_file=file_id, suffix="facts")


def with_steps(job_id: str, count: int, **fields) -> TrainingJob:
    """As the runner leaves a job after so many steps."""
    TrainingJob.objects.filter(pk=job_id).update(**fields)
    row = TrainingJob.objects.get(pk=job_id)
    at = timezone.now()
    TrainingProgress.objects.bulk_create(
        TrainingProgress(job=row, step=step, loss=4 / step, learning_rate=1e-3, at=at) for step in range(1, count + 1)
    )
    return row


def test_a_job_is_made_and_read_in_openais_form(sdk, job, file_id, api, member):
    assert (job.object, job.status, job.model, job.training_file) == ("fine_tuning.job", "queued", "demo", file_id)
    assert (job.fine_tuned_model, job.error, job.finished_at, job.result_files) == (None, None, None, [])
    assert (job.method.type, job.hyperparameters.batch_size) == ("supervised", 4)
    assert sdk.fine_tuning.jobs.retrieve(job.id).id == job.id
    assert [each.id for each in sdk.fine_tuning.jobs.list()] == [job.id]
    ours = api(member).get(f"/api/training/jobs/{job.id}").json()
    assert (ours["adapter"], ours["status"], ours["recipe"]["epochs"]) == (
        "facts",
        "queued",
        job.hyperparameters.n_epochs,
    )


def test_what_is_automatic_suits_the_model_and_a_multiplier_scales_its_rate(sdk, job, file_id):
    assert (job.hyperparameters.n_epochs, job.hyperparameters.learning_rate) == (50, 5e-3)
    chosen = {"n_epochs": 2, "batch_size": 8, "learning_rate_multiplier": 0.5}
    method = {"type": "supervised", "supervised": {"hyperparameters": chosen}}
    scaled = sdk.fine_tuning.jobs.create(model="demo", training_file=file_id, method=method, seed=7)
    used = scaled.hyperparameters
    assert (used.n_epochs, used.batch_size, used.learning_rate, scaled.seed) == (2, 8, 2.5e-3, 7)


def test_without_a_suffix_the_adapter_is_called_after_the_model_and_the_file(sdk, file_id):
    made = sdk.fine_tuning.jobs.create(model="demo", training_file=file_id, hyperparameters={"batch_size": "auto"})
    assert TrainingJob.objects.get(pk=made.id).adapter_name == "demo-facts"


def test_a_job_is_paused_resumed_and_cancelled(sdk, job):
    assert sdk.fine_tuning.jobs.pause(job.id).status == "paused"
    assert sdk.fine_tuning.jobs.resume(job.id).status == "queued"
    assert sdk.fine_tuning.jobs.cancel(job.id).status == "cancelled"
    with pytest.raises(openai.APIStatusError) as refused:
        sdk.fine_tuning.jobs.cancel(job.id)
    assert (refused.value.status_code, refused.value.body["code"]) == (409, "conflict")


def test_events_tell_the_steps_newest_first_page_by_page(sdk, job):
    with_steps(job.id, 30, state=JobState.RUNNING, started_at=timezone.now(), total_steps=60)
    events = list(sdk.fine_tuning.jobs.list_events(job.id, limit=7))
    steps = [event.data["step"] for event in events if event.type == "metrics"]
    assert steps == list(range(30, 0, -1))
    assert events[0].message == "Step 30/60: training loss=0.1333"
    assert [event.message for event in events[-2:]] == ["The job has started.", f"Created fine-tuning job: {job.id}"]
    assert len({event.id for event in events}) == len(events)


def test_checkpoints_come_with_their_loss(sdk, job):
    kept = [{"generation": 1, "step": step, "folder": f"checkpoints/checkpoint-{step}"} for step in (10, 20)]
    with_steps(job.id, 20, state=JobState.RUNNING, checkpoints=kept)
    found = list(sdk.fine_tuning.jobs.checkpoints.list(job.id, limit=1))
    assert [(each.step_number, each.metrics.train_loss) for each in found] == [(20, 0.2), (10, 0.4)]


def test_a_finished_job_names_the_model_that_answers(sdk, job, tenant, base):
    adapter = Adapter.objects.create(tenant=tenant, name="facts", base_model=base)
    AdapterVersion.objects.create(
        tenant=tenant, adapter=adapter, number=3, rank=8, size_bytes=1, sha256="0", job_id=job.id
    )
    finished = timezone.now()
    with_steps(job.id, 1, state=JobState.COMPLETED, finished_at=finished)
    done = sdk.fine_tuning.jobs.retrieve(job.id)
    assert (done.status, done.fine_tuned_model, done.finished_at) == ("succeeded", "facts@3", int(finished.timestamp()))
    assert next(iter(sdk.fine_tuning.jobs.list_events(job.id))).message == "The job succeeded."


def test_a_failed_job_says_why(sdk, job):
    with_steps(job.id, 0, state=JobState.FAILED, failure_reason="The disk is full.", failure_cause="disk_full")
    failed = sdk.fine_tuning.jobs.retrieve(job.id)
    assert (failed.status, failed.error.code, failed.error.message) == ("failed", "disk_full", "The disk is full.")


def test_a_running_job_says_when_it_will_be_done(sdk, job):
    with_steps(job.id, 1, state=JobState.RUNNING, eta_seconds=3600)
    expected = timezone.now() + timedelta(hours=1)
    assert abs(sdk.fine_tuning.jobs.retrieve(job.id).estimated_finish - expected.timestamp()) < 60


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"hyperparameters": {"n_epochs": -1}}, "hyperparameters.n_epochs"),
        ({"hyperparameters": {"n_epochs": "many"}}, "hyperparameters.n_epochs"),
        ({"hyperparameters": {"batch_size": 0}}, "hyperparameters.batch_size"),
        ({"hyperparameters": {"learning_rate_multiplier": -1}}, "hyperparameters.learning_rate_multiplier"),
        ({"hyperparameters": {"learning_rate_multiplier": True}}, "hyperparameters.learning_rate_multiplier"),
        ({"hyperparameters": {"beta": 1}}, "hyperparameters.beta"),
        ({"hyperparameters": [1]}, "hyperparameters"),
        ({"method": {"type": "dpo"}}, "method"),
        ({"method": {"type": "supervised", "dpo": {"hyperparameters": {"beta": 0.1}}}}, "method"),
        ({"n_epochs": 4}, "n_epochs"),
        ({"batch_size": 4}, "batch_size"),
        ({"learning_rate": 1e-3}, "learning_rate"),
        ({"recipe": {"epochs": 1}}, "recipe"),
        ({"method": {"type": "supervised", "supervised": [1]}}, "method"),
        ({"method": {"type": "supervised", "supervised": {"hyperparameters": 1}}}, "method"),
        ({"validation_file": "dataset-1"}, "validation_file"),
        ({"integrations": [{"type": "wandb"}]}, "integrations"),
        ({"suffix": "a" * 65}, "suffix"),
        ({"suffix": "../evil"}, "suffix"),
        ({"seed": -1}, "seed"),
        ({"model": None}, "model"),
        ({"model": 7}, "model"),
        ({"training_file": None}, "training_file"),
        ({"training_file": "/etc/passwd"}, "training_file"),
    ],
)
def test_what_is_wrong_is_told_by_its_field_before_anything_starts(api, member, sdk, file_id, wrong, param):
    reply = api(member).post(JOBS, {"model": "demo", "training_file": file_id, "suffix": "facts"} | wrong)
    error = reply.json()["error"]
    assert (reply.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert TrainingJob.objects.count() == 0


def test_foreign_models_files_and_jobs_are_as_if_missing(api, stranger, sdk, job, file_id):
    order = {"model": "demo", "training_file": file_id}
    reply = api(stranger).post(JOBS, order)
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "model_not_found")
    Model.objects.create(tenant=stranger.default_tenant, name="demo", config={"model_path": "serai-demo"})
    foreign, missing = api(stranger).post(JOBS, order), api(stranger).post(JOBS, order | {"training_file": "dataset-0"})
    assert (foreign.status_code, foreign.json()) == (missing.status_code, missing.json()) == (404, foreign.json())
    assert api(stranger).get(JOBS).json()["data"] == []
    for path in ("", "/events", "/checkpoints"):
        assert api(stranger).get(f"{JOBS}/{job.id}{path}").status_code == 404
    for verb in ("cancel", "pause", "resume"):
        assert api(stranger).post(f"{JOBS}/{job.id}/{verb}").status_code == 404
    assert sdk.fine_tuning.jobs.retrieve(job.id).status == "queued"


@pytest.mark.parametrize("after", ["nonsense", "job-1:3", "{}:-1", "{}:x", "{}"])
def test_a_wrong_place_to_go_on_from_is_told(api, member, job, after):
    reply = api(member).get(f"{JOBS}/{job.id}/events", {"after": after.format(job.id)})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "after")


def test_a_field_at_the_wrong_place_is_told_with_the_right_one(api, member, file_id):
    reply = api(member).post(JOBS, {"model": "demo", "training_file": file_id, "n_epochs": 4})
    message = reply.json()["error"]["message"]
    assert (reply.status_code, "method.supervised.hyperparameters" in message) == (400, True)


def test_what_has_no_effect_is_told_in_a_header(sdk, file_id):
    made = sdk.fine_tuning.jobs.with_raw_response.create(
        model="demo",
        training_file=file_id,
        metadata={"team": "support"},
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 1}, "shuffle": True}},
        extra_body={"service_tier": "flex", "note": None},
    )
    assert made.headers["Serai-Ignored"] == "metadata, service_tier, method.supervised.shuffle"
    assert made.parse().status == "queued"


def test_a_plain_order_has_no_such_header(sdk, file_id, job):
    plain = sdk.fine_tuning.jobs.with_raw_response.create(
        model="demo", training_file=file_id, suffix="facts", seed=7, integrations=[], validation_file=None, metadata={}
    )
    listed = sdk.fine_tuning.jobs.with_raw_response.list(limit=1)
    cancelled = sdk.fine_tuning.jobs.with_raw_response.cancel(job.id)
    assert [reply.headers.get("Serai-Ignored") for reply in (plain, listed, cancelled)] == [None] * 3
    assert plain.parse().seed == 7


def test_the_header_is_on_errors_and_on_routes_without_a_body(api, member, stranger, job):
    refused = api(member).post(JOBS, {"model": "demo", "note": 1})
    assert (refused.status_code, refused.headers["Serai-Ignored"]) == (400, "note")
    foreign = api(stranger).post(f"{JOBS}/{job.id}/cancel", {"reason": "mine"})
    assert (foreign.status_code, foreign.headers["Serai-Ignored"]) == (404, "reason")
    own = api(member).post(f"{JOBS}/{job.id}/cancel", {"reason": "slow"})
    assert (own.status_code, own.headers["Serai-Ignored"]) == (200, "reason")


def test_no_name_breaks_the_header_and_not_all_are_repeated(api, member):
    names = ["a\r\nSet-Cookie: x=1", "b,c", "数", "d" * 500, *(f"n{number}" for number in range(50))]
    told = api(member).post(JOBS, dict.fromkeys(names, 1)).headers["Serai-Ignored"].split(", ")
    assert told[:3] == ["a%0D%0ASet-Cookie:%20x%3D1", "b%2Cc", "%E6%95%B0"]
    assert (len(told), len(told[3])) == (20, 60)


def test_a_list_is_not_narrowed_by_what_jobs_do_not_keep(sdk, api, member, job):
    with pytest.raises(openai.BadRequestError) as refused:
        sdk.fine_tuning.jobs.list(metadata={"team": "support"})
    assert refused.value.body["param"] == "metadata"
    assert api(member).get(JOBS, {"cache": "no"}).headers["Serai-Ignored"] == "cache"
    assert api(member).get(f"{JOBS}/{job.id}/events", {"order": "asc"}).headers["Serai-Ignored"] == "order"
