"""The engine document's training section below /api/v1: every example of it, its defaults, states and errors."""

import json
import re
from datetime import timedelta

import pytest
from django.conf import settings as live
from django.utils import timezone

from core.units import GIB
from models_app.models import Model
from tests.support import instance_rows, job_rows, weight_files
from training.models import DesiredJobState, JobState, TrainingJob

TRAINING = "/api/v1/training"
MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
EXAMPLE = json.loads("""{
"baseModel": "Qwen/Qwen2.5-7B-Instruct",
"outputDir": "/checkpoints/my_lora",
"datasetPath": "/data/train.json",
"hyperParams": {
"batchSize": 4,
"learningRate": 2e-4,
"epochs": 3,
"maxSeqLength": 2048,
"loraRank": 64,
"loraAlpha": 16,
"saveSteps": 100,
"evalSteps": 100
},
"loraConfig": {
"r": 64,
"loraAlpha": 16,
"loraDropout": 0.05,
"targetModules": ["q_proj", "v_proj"],
"bias": "none"
}
}""")
REQUIRED = {name: EXAMPLE[name] for name in ("baseModel", "outputDir", "datasetPath")}


@pytest.fixture(autouse=True)
def folders(settings, tmp_path):
    settings.DATA_DIR = tmp_path
    return tmp_path


@pytest.fixture
def qwen(tenant) -> Model:
    name = EXAMPLE["baseModel"]
    longer = {"max_position_embeddings": 32768}
    weight_files.folder(live.DATA_DIR / "tenants" / tenant.slug / "models" / name, longer)
    return Model.objects.create(tenant=tenant, name=name, config={"model_path": name, "enable_lora": True})


@pytest.fixture
def train(tenant):
    return job_rows.dataset(tenant, "train")


@pytest.fixture
def client(api, key):
    """As the document has it: a key in X-API-Key."""
    return api(**{"X-API-Key": key(scopes=["training", "read"])})


@pytest.fixture
def job(client, qwen, train) -> TrainingJob:
    return TrainingJob.objects.get(pk=client.post(f"{TRAINING}/start", EXAMPLE).json()["jobId"])


def started(job: TrainingJob, **fields) -> TrainingJob:
    box = instance_rows.node(usable=64 * GIB)
    return job_rows.on_a_node(job, box, started_at=timezone.now(), **fields)


def error(reply) -> tuple[int, str, list]:
    told = reply.json()["error"]
    return reply.status_code, told["code"], [detail["field"] for detail in told["details"]]


# --- the examples


def test_the_documents_order_is_queued(client, qwen, train):
    reply = client.post(f"{TRAINING}/start", EXAMPLE)
    made = reply.json()
    assert reply.status_code == 200
    assert made == {
        "jobId": made["jobId"], "status": "queued", "message": "Training job has been queued",
        "createdAt": made["createdAt"],
    }  # fmt: skip
    assert made["jobId"].startswith("job-")
    assert MOMENT.fullmatch(made["createdAt"])
    job = TrainingJob.objects.get()
    assert (job.base_model, job.dataset, job.adapter_name) == (qwen, train, "my_lora")
    assert (job.recipe["rank"], job.recipe["target_modules"]) == (64, ["q_proj", "v_proj"])


def test_what_is_left_out_is_the_documents_default(client, qwen, train):
    client.post(f"{TRAINING}/start", REQUIRED)
    assert TrainingJob.objects.get().recipe == {
        "batch_size": 4, "learning_rate": 2e-4, "epochs": 3, "max_seq_length": 2048, "rank": 64, "alpha": 16,
        "dropout": 0.05, "save_steps": 100, "eval_steps": 100, "seed": 42, "target_modules": [], "bias": "none",
    }  # fmt: skip


def test_the_status_of_a_running_job_is_as_in_the_example(client, job):
    started(
        job, step=150, total_steps=1000, epoch=1.4, loss=0.5234, learning_rate=1.5e-4, elapsed_seconds=1250.4,
        eta_seconds=4199.6, eval_loss=0.6,
    )  # fmt: skip
    shown = client.get(f"{TRAINING}/status/{job.pk}").json()
    assert shown["progress"] == {
        "currentEpoch": 2, "currentStep": 150, "totalSteps": 1000, "loss": 0.5234, "learningRate": 1.5e-4,
        "evalLoss": 0.6,
    }  # fmt: skip
    example = {
        "jobId": job.pk, "status": "running", "elapsedTimeSeconds": 1250, "estimatedTimeRemainingSeconds": 4200,
    }  # fmt: skip
    assert {name: shown[name] for name in example} == example
    assert MOMENT.fullmatch(shown["createdAt"])
    assert MOMENT.fullmatch(shown["startedAt"])
    assert (shown["completedAt"], shown["message"]) == (None, "")


def test_the_status_of_a_waiting_job_says_why(client, job):
    shown = client.get(f"{TRAINING}/status/{job.pk}").json()
    assert (shown["status"], shown["message"], shown["startedAt"]) == ("queued", "It waits for its turn.", None)
    assert shown["progress"]["currentStep"] == shown["progress"]["currentEpoch"] == 0
    assert shown["estimatedTimeRemainingSeconds"] is None


@pytest.mark.parametrize("state", JobState.values)
def test_every_state_of_the_document_is_told_by_its_word(client, job, state):
    TrainingJob.objects.update(state=state, failure_reason="The disk is full." if state == "failed" else "")
    assert client.get(f"{TRAINING}/status/{job.pk}").json()["status"] == state
    listed = client.get(f"{TRAINING}/list", {"status": state}).json()
    assert [each["status"] for each in listed["jobs"]] == [state]


def test_a_job_is_cancelled_as_in_the_example(client, job):
    assert client.post(f"{TRAINING}/cancel/{job.pk}").json() == {
        "jobId": job.pk, "status": "cancelled", "message": "Training job has been cancelled",
    }  # fmt: skip
    assert client.get(f"{TRAINING}/status/{job.pk}").json()["status"] == "cancelled"


def test_a_running_job_is_cancelled_in_the_same_words(client, job):
    started(job)
    assert client.post(f"{TRAINING}/cancel/{job.pk}").json()["status"] == "cancelled"
    job.refresh_from_db()
    assert job.desired == DesiredJobState.CANCELLED
    assert client.get(f"{TRAINING}/status/{job.pk}").json()["status"] == "cancelled"


def test_a_job_is_paused_and_resumed_in_the_same_style(client, job):
    assert client.post(f"{TRAINING}/pause/{job.pk}").json() == {
        "jobId": job.pk, "status": "paused", "message": "Training job has been paused",
    }  # fmt: skip
    assert client.post(f"{TRAINING}/resume/{job.pk}").json() == {
        "jobId": job.pk, "status": "queued", "message": "Training job has been resumed",
    }  # fmt: skip


def test_the_list_is_as_in_the_example(client, job):
    end = timezone.now() + timedelta(hours=2)
    TrainingJob.objects.update(state=JobState.COMPLETED, finished_at=end)
    reply = client.get(f"{TRAINING}/list").json()
    (listed,) = reply.pop("jobs")
    assert reply == {"total": 1, "limit": 100, "offset": 0}
    assert listed == {
        "jobId": job.pk, "baseModel": "Qwen/Qwen2.5-7B-Instruct", "status": "completed",
        "createdAt": listed["createdAt"], "completedAt": end.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }  # fmt: skip


def test_the_list_is_cut_by_limit_and_offset(client, job):
    for _ in range(2):
        client.post(f"{TRAINING}/start", EXAMPLE)
    ids = [each["jobId"] for each in client.get(f"{TRAINING}/list").json()["jobs"]]
    assert ids[-1] == job.pk
    page = client.get(f"{TRAINING}/list", {"limit": 1, "offset": 1}).json()
    assert [each["jobId"] for each in page["jobs"]] == [ids[1]]
    assert (page["total"], page["limit"], page["offset"]) == (3, 1, 1)
    assert client.get(f"{TRAINING}/list", {"offset": 9}).json()["jobs"] == []


# --- the errors


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"status": "done"}, "status"), ({"limit": 0}, "limit"), ({"limit": 1001}, "limit"), ({"limit": "x"}, "limit"),
        ({"offset": -1}, "offset"),
    ],
)  # fmt: skip
def test_bad_values_of_the_list_are_refused(client, query, field):
    assert error(client.get(f"{TRAINING}/list", query)) == (400, "INVALID_REQUEST", [field])


WRONG = {
    "no base": ({"baseModel": None}, "baseModel"),
    "a number for a base": ({"baseModel": 7}, "baseModel"),
    "a base outside": ({"baseModel": "/etc/passwd"}, "baseModel"),
    "a base upwards": ({"baseModel": "/models/../../secret"}, "baseModel"),
    "a base whose files are not there": ({"baseModel": "later"}, "baseModel"),
    "a base in GGUF": ({"baseModel": "gguf"}, "baseModel"),
    "an output outside": ({"outputDir": "/root/my_lora"}, "outputDir"),
    "an output upwards": ({"outputDir": "/checkpoints/../../x"}, "outputDir"),
    "an output that is a root": ({"outputDir": "/checkpoints"}, "outputDir"),
    "an output that is none": ({"outputDir": ""}, "outputDir"),
    "an output with a reserved name": ({"outputDir": "/checkpoints/default"}, "outputDir"),
    "a data set outside": ({"datasetPath": "/etc/train.json"}, "datasetPath"),
    "a data set upwards": ({"datasetPath": "../train.json"}, "datasetPath"),
    "a data set that is an object": ({"datasetPath": {}}, "datasetPath"),
    "hyperparameters that are none": ({"hyperParams": []}, "hyperParams"),
    "negative epochs": ({"hyperParams": {"epochs": -1}}, "hyperParams.epochs"),
    "a text for a number": ({"hyperParams": {"batchSize": "4"}}, "hyperParams.batchSize"),
    "an unknown hyperparameter": ({"hyperParams": {"warmupSteps": 1}}, "hyperParams.warmupSteps"),
    "a wrong rank": ({"loraConfig": {"r": 0}}, "loraConfig.r"),
    "biases": ({"loraConfig": {"bias": "all"}}, "loraConfig.bias"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_order_is_refused_by_the_documents_names(client, tenant, qwen, train, case):
    Model.objects.create(tenant=tenant, name="later", config={"model_path": "not-there-yet"})
    Model.objects.create(tenant=tenant, name="gguf", framework="llama.cpp", config={"model_path": "x.gguf"})
    fields, named = WRONG[case]
    assert error(client.post(f"{TRAINING}/start", EXAMPLE | fields)) == (400, "INVALID_REQUEST", [named])
    assert TrainingJob.objects.count() == 0


def test_an_unknown_base_or_data_set_is_not_found(client, qwen, train):
    reply = client.post(f"{TRAINING}/start", EXAMPLE | {"baseModel": "nothing"})
    assert error(reply) == (404, "MODEL_NOT_FOUND", ["baseModel"])
    reply = client.post(f"{TRAINING}/start", EXAMPLE | {"datasetPath": "/data/nothing.json"})
    assert error(reply) == (404, "NOT_FOUND", ["datasetPath"])


def test_a_job_that_no_device_could_hold_is_refused(client, qwen, train, folders):
    node = instance_rows.node(usable=GIB // 2)
    node.data_folder = str(folders)
    node.save()
    assert error(client.post(f"{TRAINING}/start", EXAMPLE))[:2] == (503, "INSUFFICIENT_RESOURCES")


def test_an_unknown_job_and_a_strangers_are_not_found_alike(api, client, stranger, job):
    for path in ("status", "cancel", "pause", "resume"):
        ask = "get" if path == "status" else "post"
        foreign = getattr(api(stranger), ask)(f"{TRAINING}/{path}/{job.pk}")
        missing = getattr(client, ask)(f"{TRAINING}/{path}/job-nothing")
        assert error(foreign)[:2] == error(missing)[:2] == (404, "TRAINING_JOB_NOT_FOUND")
        assert foreign.json()["message"] == missing.json()["message"]
    assert api(stranger).get(f"{TRAINING}/list").json()["jobs"] == []


def test_an_ended_job_cannot_be_cancelled(client, job):
    TrainingJob.objects.update(state=JobState.COMPLETED)
    assert error(client.post(f"{TRAINING}/cancel/{job.pk}"))[:2] == (400, "TRAINING_JOB_RUNNING")


def test_who_has_no_key_or_too_weak_a_one_is_refused(api, key, qwen, train):
    assert error(api().post(f"{TRAINING}/start", EXAMPLE))[:2] == (401, "AUTHENTICATION_FAILED")
    reader = api(**{"X-API-Key": key(scopes=["read"])})
    assert error(reader.post(f"{TRAINING}/start", EXAMPLE))[:2] == (403, "AUTHORIZATION_FAILED")


def test_a_chinese_client_reads_chinese(api, key, qwen, train):
    client = api(**{"X-API-Key": key(scopes=["training"]), "Accept-Language": "zh-CN"})
    assert client.post(f"{TRAINING}/start", EXAMPLE).json()["message"] == "训练任务已排队"
