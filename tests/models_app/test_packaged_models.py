"""A model that comes as a package: fetched once, by its hash, before its engine starts, or told why not."""

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from importlib import import_module
from pathlib import Path

import pytest
from django.apps import apps

from accounts.models import Tenant
from engines import fetching, packages
from engines.base import COMMON_SYMPTOMS, LaunchCommand
from engines.launchers import bring
from inference.models import Instance
from models_app import artefacts, packaged_models
from models_app.models import Mode, Model, ModelAlias
from node_agent import process_tree

ENGINE = [sys.executable, "-c", "import os; print('engine', sorted(name for name in os.environ if 'UV' in name))"]
INFO = "toy_model-1.0.dist-info"
NOWHERE = {"UV_DEFAULT_INDEX": "http://127.0.0.1:1/simple", "UV_HTTP_RETRIES": "0"}


@pytest.fixture
def lock(tmp_path) -> Path:
    """Of a wheel in a folder, which holds a model of one file."""
    wheel = tmp_path / "wheels" / "toy_model-1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("toy_model/model/config.json", "{}")
        archive.writestr(f"{INFO}/METADATA", "Metadata-Version: 2.1\nName: toy-model\nVersion: 1.0\n")
        archive.writestr(f"{INFO}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{INFO}/RECORD", "")
    path = tmp_path / "toy.lock.txt"
    path.write_text(f"toy-model==1.0 --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n")
    return path


@pytest.fixture
def fetch(tmp_path, lock):
    """What the shim would start in the engine's place."""

    def run(target=tmp_path / "cache" / "toy", **variables) -> subprocess.CompletedProcess:
        reach = {"UV_FIND_LINKS": str(tmp_path / "wheels"), "UV_OFFLINE": "1"} | variables
        environment = {"PATH": os.environ["PATH"], bring.SECRETS_VARIABLE: json.dumps(reach)}
        words = [packages.find_uv(), str(lock), "toy_model/model", str(target), *ENGINE]
        command = [sys.executable, "-I", str(fetching.SCRIPT), *words]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)

    return run


def test_the_files_are_fetched_once_and_the_engine_starts_without_the_indexes_addresses(fetch, tmp_path):
    first, second = fetch(), fetch()
    assert (tmp_path / "cache/toy/config.json").read_text() == "{}"
    assert not (tmp_path / "cache/.toy.draft").exists()
    assert "Fetching the files of toy." in first.stdout
    assert [run.stdout.splitlines()[-1] for run in (first, second)] == ["engine []"] * 2
    assert "Fetching" not in second.stdout


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        (NOWHERE | {"UV_OFFLINE": "0", "UV_FIND_LINKS": ""}, "the package index cannot be reached"),
        ({"UV_FIND_LINKS": ""}, "the package index does not have the package"),
    ],
)
def test_without_a_network_or_the_package_the_reason_is_said(fetch, tmp_path, variables, reason):
    run = fetch(**variables)
    assert run.returncode == bring.EXIT_FAILED
    said = run.stdout.splitlines()[-1]
    assert said.startswith(f"The model's files could not be fetched: {reason}")
    assert any(symptom.regex.search(said) for symptom in COMMON_SYMPTOMS)
    assert not (tmp_path / "cache/toy").exists()
    assert "engine" not in run.stdout


def test_another_file_than_the_locked_one_is_refused(fetch, lock, tmp_path):
    lock.write_text(f"toy-model==1.0 --hash=sha256:{'0' * 64}\n")
    run = fetch()
    assert run.returncode == bring.EXIT_FAILED
    assert "differs from its hash" in run.stdout
    assert not (tmp_path / "cache/toy").exists()


def test_a_place_that_cannot_be_written_is_said(fetch, tmp_path):
    (tmp_path / "file").write_text("")
    run = fetch(target=tmp_path / "file" / "toy")
    assert run.returncode == bring.EXIT_FAILED
    assert "could not be fetched" in run.stdout


@pytest.fixture
def minilm(tenant, settings, tmp_path):
    settings.CACHE_DIR = tmp_path / "cache"
    return Model.objects.create(
        tenant=tenant, name="minilm", mode=Mode.EMBEDDING, config={"model_path": packaged_models.MINILM.name}
    )


def start(model) -> LaunchCommand:
    where = {"device_kind": "cpu", "device_indexes": [0], "weights": 1, "overhead": 1, "kv_cache": 0}
    return process_tree.command_for(Instance(model=model, placement=where, served_name="minilm"))


def test_what_is_known_of_the_model_beforehand_is_enough_to_place_it(minilm):
    artefact = artefacts.check_startable(minilm)
    assert (artefact.mode, artefact.path) == (Mode.EMBEDDING, packaged_models.MINILM.folder)
    assert artefact.weight_bytes == 90_856_960


def test_the_engine_is_started_by_way_of_the_fetch_only_where_the_files_are_missing(minilm, settings):
    settings.NETWORK_ENVIRONMENT = {"UV_HTTP_TIMEOUT": "7"}
    missing = start(minilm)
    assert missing.argv[2] == str(fetching.SCRIPT)
    assert json.loads(missing.env[bring.SECRETS_VARIABLE])["UV_HTTP_TIMEOUT"] == "7"
    assert "SERAI_DATA" not in json.loads(missing.env[bring.SECRETS_VARIABLE])
    assert process_tree.describe_launch(missing)["env"][bring.SECRETS_VARIABLE] == "<set>"
    assert "--runner" in missing.argv
    assert packaged_models.MINILM.lock.is_file()


def test_a_tenants_own_folder_of_that_name_goes_first(minilm):
    own = artefacts.tenant_folder(minilm.tenant) / packaged_models.MINILM.name
    own.mkdir(parents=True)
    assert artefacts.locate(minilm.tenant, packaged_models.MINILM.name) == own.resolve()
    own.rmdir()


def upgrade() -> None:
    """From a version that did not know the model yet. A migration runs once in an installation's life."""
    migration = import_module("models_app.migrations.0005_minilm_for_older_installations")
    migration.add_minilm(apps, None)


@pytest.fixture
def older(tenant) -> Tenant:
    """A tenant as the first run left it before minilm."""
    return Model.objects.create(
        tenant=tenant, name="serai-demo", config={"model_path": "serai-demo"}, tags=["demo"]
    ).tenant


def test_an_older_installation_is_given_the_model(older, stranger, api, owner):
    upgrade()
    assert api(owner).get("/api/models/minilm").json()["mode"] == "Embedding"
    assert api(stranger).get("/api/models/minilm").status_code == 404
    assert (
        artefacts.check_startable(Model.objects.get(name="minilm")).weight_bytes == packaged_models.MINILM.weight_bytes
    )
    upgrade()
    assert Model.objects.filter(name="minilm").count() == 1


def test_what_somebody_deleted_or_named_so_stays_as_it_is(older, tenant, api, owner):
    ModelAlias.objects.create(tenant=tenant, model=Model.objects.get(), name="minilm")
    upgrade()
    ModelAlias.objects.all().delete()
    upgrade()
    assert api(owner).delete("/api/models/minilm").status_code == 200
    upgrade()
    assert list(Model.objects.values_list("name", flat=True)) == ["serai-demo"]


def test_an_installation_without_the_demo_model_is_given_nothing(tenant):
    upgrade()
    assert not Model.objects.exists()
