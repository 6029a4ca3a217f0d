"""Models below /api/v1: the engine document's fields beside the service document's."""

import pytest
from django.utils import timezone

from inference.models import Device, InstanceState
from models_app.models import Adapter, AdapterVersion, Model, Visibility
from tests.support import instance_rows

MODELS = "/api/v1/models"
WORDS = {
    None: "not_loaded",
    InstanceState.PENDING: "loading", InstanceState.STARTING: "loading", InstanceState.READY: "ready",
    InstanceState.DRAINING: "unloading", InstanceState.STOPPED: "not_loaded", InstanceState.FAILED: "error",
}  # fmt: skip


@pytest.fixture
def model(tenant) -> Model:
    config = {"model_path": "Qwen/Qwen2.5-7B-Instruct", "max_model_len": 8192, "gpu_memory_utilization": 0.9}
    return Model.objects.create(tenant=tenant, name="qwen2.5-7b", display_name="Qwen2.5 7B", config=config)


def test_the_list_has_the_fields_of_both_documents(api, viewer, model):
    reply = api(viewer).get(MODELS).json()
    assert {"total": 1, "page": 1, "size": 20, "pages": 1}.items() <= reply.items()
    (entry,) = reply["models"]
    engine_document = {
        "id": model.pk, "name": "qwen2.5-7b", "engine": "cpu-vllm", "status": "not_loaded",
        "capabilities": ["inference", "stream", "training"], "maxModelLen": 8192,
    }  # fmt: skip
    assert engine_document.items() <= entry.items()
    assert reply["items"] == api(viewer).get("/api/models").json()["items"]
    assert reply["items"][0]["status"] == "created"
    assert set(reply["items"][0]) <= set(entry)


def test_one_model_has_its_configuration_in_both_documents_words(api, viewer, model):
    one = api(viewer).get(f"{MODELS}/qwen2.5-7b").json()
    assert one["modelPath"] == "Qwen/Qwen2.5-7B-Instruct"
    both = {"maxModelLen": 8192, "gpuMemoryUtilization": 0.9, "tensorParallelSize": 1, **model.config}
    assert one["config"] == both
    assert (one["display_name"], one["framework"]) == ("Qwen2.5 7B", "vllm")


@pytest.mark.parametrize(("state", "word"), WORDS.items())
def test_a_state_is_told_in_the_documents_word(api, viewer, model, state, word):
    if state:
        instance_rows.instance(model, state)
    assert api(viewer).get(f"{MODELS}/{model.pk}").json()["status"] == word
    assert api(viewer).get(MODELS).json()["models"][0]["status"] == word


def test_a_ready_model_whose_probes_fail_is_degraded(api, viewer, model):
    instance_rows.instance(model, InstanceState.READY, healthy=False)
    assert api(viewer).get(f"{MODELS}/{model.pk}").json()["status"] == "degraded"


def test_the_engine_is_named_by_where_the_model_runs_or_would_run(api, viewer, model, tenant):
    Model.objects.create(tenant=tenant, name="gguf", framework="llama.cpp", config={"model_path": "x.gguf"})

    def engines() -> dict:
        return {each["name"]: each["engine"] for each in api(viewer).get(MODELS).json()["models"]}

    assert engines() == {"qwen2.5-7b": "cpu-vllm", "gguf": "llama.cpp"}
    Device.objects.create(
        node=instance_rows.node(), kind="cuda", name="GPU", total_bytes=1, usable_bytes=1, measured_at=timezone.now()
    )
    assert engines() == {"qwen2.5-7b": "cuda-vllm-async", "gguf": "llama.cpp"}
    instance_rows.instance(model, InstanceState.READY, placement={"device_kind": "cpu"})
    assert engines()["qwen2.5-7b"] == "cpu-vllm"


@pytest.mark.parametrize(("mode", "capabilities"), [("Embedding", ["embedding"]), ("Reranker", ["rerank"])])
def test_capabilities_follow_the_mode(api, viewer, tenant, mode, capabilities):
    Model.objects.create(tenant=tenant, name="other", mode=mode)
    assert api(viewer).get(f"{MODELS}/other").json()["capabilities"] == capabilities


@pytest.mark.parametrize(
    ("path", "shown"), [("/srv/weights/secret/qwen", "qwen"), ("/models/a/", "a"), ("org/name", "org/name"), ("", "")]
)
def test_the_path_is_a_name_and_tells_nothing_of_the_host(api, viewer, tenant, path, shown):
    Model.objects.create(tenant=tenant, name="other", config={"model_path": path} if path else {})
    assert api(viewer).get(f"{MODELS}/other").json()["modelPath"] == shown


def test_filters_pages_and_slashes_work_as_below_api(api, viewer, tenant, model):
    Model.objects.create(tenant=tenant, name="team/other", framework="llama.cpp")
    client = api(viewer)
    assert [each["name"] for each in client.get(MODELS, {"framework": "vllm"}).json()["models"]] == ["qwen2.5-7b"]
    assert client.get(MODELS, {"page": 2, "size": 1}).json()["models"][0]["name"] == "qwen2.5-7b"
    assert client.get(f"{MODELS}/team/other").json()["name"] == "team/other"
    wrong = client.get(MODELS, {"size": 0})
    assert (wrong.status_code, wrong.json()["error"]["details"][0]["field"]) == (400, "size")


def test_strangers_see_nothing(api, stranger, model):
    assert api(stranger).get(MODELS).json()["models"] == []
    foreign = api(stranger).get(f"{MODELS}/{model.pk}").json()["error"]
    assert (foreign["code"], foreign["details"][0]["type"]) == ("MODEL_NOT_FOUND", "model_not_found")


def test_no_more_queries_for_many_models(api, viewer, tenant, django_assert_max_num_queries):
    for number in range(12):
        made = Model.objects.create(tenant=tenant, name=f"m{number}")
        instance_rows.instance(made, InstanceState.READY)
    client = api(viewer)
    with django_assert_max_num_queries(16):
        assert len(client.get(MODELS).json()["models"]) == 12


def test_published_adapters_are_told_to_their_tenant(api, viewer, stranger, model):
    Model.objects.update(visibility=Visibility.PUBLIC)
    for name in ("tone", "facts", "hidden"):
        adapter = Adapter.objects.create(tenant=model.tenant, name=name, base_model=model)
        version = AdapterVersion.objects.create(
            tenant=model.tenant, adapter=adapter, number=1, rank=8, size_bytes=1, sha256=""
        )
        Adapter.objects.filter(pk=adapter.pk).exclude(name="hidden").update(current=version)
    assert api(viewer).get(MODELS).json()["models"][0]["loraAdapters"] == ["facts", "tone"]
    assert api(viewer).get(f"{MODELS}/{model.pk}").json()["loraAdapters"] == ["facts", "tone"]
    assert api(stranger).get(MODELS).json()["models"][0]["loraAdapters"] == []
