"""Which models can be taught, by what their entry and their files say."""

import pytest

from accounts.authentication import actor_for_user
from core.errors import InvalidRequest, ModelNotFound
from models_app.models import Mode, Model
from tests.support import weight_files
from training import base_models


@pytest.fixture
def model(tenant, settings, tmp_path) -> Model:
    settings.DATA_DIR = tmp_path
    weight_files.folder(tmp_path / "tenants" / tenant.slug / "models" / "base")
    return Model.objects.create(tenant=tenant, name="base", config={"model_path": "base"})


def refusal(model) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as refused:
        base_models.check(model)
    return refused.value


def rewrite(model, tmp_path, config: dict | None = None, dtype: str = "F16") -> None:
    place = weight_files.folder(tmp_path / "tenants" / model.tenant.slug / "models" / "base", config)
    header = {"w": {"dtype": dtype, "shape": [8] if dtype in ("I8", "U8") else [2, 2], "data_offsets": [0, 8]}}
    (place / "model.safetensors").write_bytes(weight_files.safetensors(header))


def test_the_weights_are_counted_and_the_context_is_known(model):
    base = base_models.check(model)
    assert (base.parameters, base.context, base.shape["hidden_size"]) == (4, 512, 64)
    model.config["n_ctx"] = 128
    assert base_models.check(model).context == 128


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"framework": "llama.cpp"}, "GGUF cannot be trained"),
        ({"mode": Mode.EMBEDDING}, "Only models that write text"),
        ({"mode": Mode.RERANKER}, "Only models that write text"),
        ({"config": {"model_path": "all-MiniLM-L6-v2"}}, "comes as a package"),
    ],
)
def test_what_no_lora_can_be_trained_for_is_refused(model, fields, said):
    for name, value in fields.items():
        setattr(model, name, value)
    refused = refusal(model)
    assert said in str(refused.message)
    assert refused.param == "base_model"


def test_an_encoder_that_is_entered_as_a_chat_model_is_refused(model, tmp_path):
    rewrite(model, tmp_path, {"architectures": ["BertModel"]})
    assert "Only models that write text" in str(refusal(model).message)


@pytest.mark.parametrize("dtype", ["I8", "U8"])
def test_quantised_weights_are_refused(model, tmp_path, dtype):
    rewrite(model, tmp_path, dtype=dtype)
    assert "Quantised weights" in str(refusal(model).message)


def test_files_that_are_not_there_are_told_as_such(model):
    model.config = {"model_path": "later"}
    assert "later" in str(refusal(model).message)


def test_the_demo_model_can_be_taught(model):
    model.config = {"model_path": "serai-demo"}
    assert base_models.check(model).parameters > 100_000


def test_an_operator_who_acts_for_nobody_finds_a_base_by_its_files_too(model, operator):
    actor = actor_for_user(operator)
    assert actor.tenant is None
    assert base_models.find(actor, "/models/base") == model
    with pytest.raises(ModelNotFound):
        base_models.find(actor, "/models/other")
