"""What a training leaves behind becomes a version of an adapter, or is refused with a sentence."""

import json
import pickle
import uuid

import pytest
from django.db import transaction

from core.errors import ModelAlreadyExists
from models_app.adapters import files, services
from models_app.models import Adapter, AdapterVersion, Model, ModelAlias
from tests.support import adapter_files


@pytest.fixture
def base(tenant, settings, tmp_path) -> Model:
    settings.DATA_DIR = tmp_path
    return Model.objects.create(tenant=tenant, name="demo", config={"enable_lora": True})


@pytest.fixture
def trained(tmp_path):
    """A new folder as a trainer leaves it, with other options or more files."""

    def make(**options):
        return adapter_files.write_folder(tmp_path / "jobs" / uuid.uuid4().hex / "adapter", **options)

    return make


def refusal(folder) -> str:
    with pytest.raises(files.InvalidAdapter) as refused:
        files.check(folder)
    return str(refused.value.message)


def test_a_training_becomes_the_next_version_and_its_files_move(base, trained, owner):
    source = trained(rank=4)
    first = adapter_files.save_version(
        base, source=source, job_id="job-1", user=owner, dataset_name="facts", dataset_version=2
    )
    second = adapter_files.save_version(base, source=trained(rank=8))
    assert (first.number, first.rank, second.number, second.rank) == (1, 4, 2, 8)
    assert first.adapter == second.adapter
    assert not source.exists()
    place = files.folder_of(first)
    assert {path.name for path in place.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    assert place.stat().st_mode & 0o777 == 0o700
    assert first.sha256 == files.check(place).sha256


def test_the_trainers_path_of_the_base_is_not_kept(base, trained):
    kept = adapter_files.save_version(base, source=trained())
    config = json.loads((files.folder_of(kept) / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "demo"


def test_a_job_has_one_version_however_often_it_is_told(base, trained):
    first = adapter_files.save_version(base, source=trained(), job_id="job-1")
    assert adapter_files.save_version(base, source=trained(), job_id="job-1") == first
    assert AdapterVersion.objects.count() == 1


class LostMeanwhile(Exception):
    pass


def test_a_job_whose_transaction_was_lost_after_its_files_had_moved_is_kept_again(base, trained):
    source = trained()
    with pytest.raises(LostMeanwhile), transaction.atomic():
        adapter_files.save_version(base, source=source, job_id="job-1")
        raise LostMeanwhile
    assert not AdapterVersion.objects.exists()
    assert adapter_files.save_version(base, source=source, job_id="job-1").number == 1


def test_a_name_given_away_during_the_training_gets_a_number(base, trained, tenant):
    Model.objects.create(tenant=tenant, name="facts")
    ModelAlias.objects.create(tenant=tenant, model=base, name="facts-2")
    assert adapter_files.save_version(base, source=trained()).adapter.name == "facts-3"


def test_a_name_of_an_adapter_of_another_base_gets_a_number(base, trained, tenant):
    adapter_files.save_version(base, source=trained())
    other = Model.objects.create(tenant=tenant, name="other")
    assert adapter_files.save_version(other, source=trained()).adapter.name == "facts-2"


def test_names_are_checked_before_a_training(base, trained, tenant, stranger):
    adapter_files.save_version(base, source=trained())
    services.check_name(tenant, "facts")
    services.check_name(stranger.default_tenant, "demo")
    with pytest.raises(ModelAlreadyExists):
        services.check_name(tenant, "demo")


def test_what_fails_leaves_the_training_where_it_was(base, trained):
    source = trained(bias="all")
    with pytest.raises(files.InvalidAdapter):
        adapter_files.save_version(base, source=source)
    assert source.exists()
    assert not Adapter.objects.exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"bias": "lora_only"}, "without biases"),
        ({"peft_type": "IA3"}, "Only LoRA"),
        ({"use_dora": True}, "use_dora"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"rank": 513}, "between 1 and 512"),
        ({"r": 2}, "its config says less"),
        ({"r": True}, "between 1 and 512"),
        ({"rank_pattern": {"q_proj": "high"}}, "between 1 and 512"),
    ],
)
def test_a_config_that_no_engine_serves_is_refused(trained, options, said):
    assert said in refusal(trained(**options))


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        ({"base_model.model.lm_head.weight": [4, 4]}, "no LoRA weight"),
        ({"base_model.model.q.lora_A.weight": [4, 8]}, "do not fit together"),
        ({"base_model.model.q.lora_A.weight": [4, 8], "base_model.model.q.lora_B.weight": [8, 2]}, "do not fit"),
    ],
)
def test_tensors_that_are_no_adapter_are_refused(trained, shapes, said):
    source = trained()
    (source / "adapter_model.safetensors").write_bytes(adapter_files.tensors(shapes))
    assert said in refusal(source)


def test_truncated_weights_are_refused(trained):
    source = trained()
    path = source / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert "damaged" in refusal(source)


def test_a_pickle_beside_the_weights_is_refused(trained):
    source = trained()
    (source / "optimizer.pt").write_bytes(pickle.dumps({}))
    assert "optimizer.pt" in refusal(source)


def test_links_are_refused(trained, tmp_path):
    source = trained()
    config = source / "adapter_config.json"
    config.rename(tmp_path / "elsewhere.json")
    config.symlink_to(tmp_path / "elsewhere.json")
    assert "adapter_config.json" in refusal(source)
    linked = tmp_path / "link"
    linked.symlink_to(trained())
    assert "no adapter" in refusal(linked)


def test_an_absent_or_half_written_adapter_is_refused(trained, tmp_path):
    assert "no adapter" in refusal(tmp_path / "nothing")
    source = trained()
    (source / "adapter_model.safetensors").unlink()
    assert "adapter_model.safetensors" in refusal(source)


def test_a_config_that_is_no_json_is_refused(trained):
    source = trained()
    (source / "adapter_config.json").write_text("[" * 100_000)
    assert "not JSON" in refusal(source)
