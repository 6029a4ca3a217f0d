"""manage.py model: weights from a folder or the hub, checked before they are in anybody's catalogue."""

import io
import sys
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from accounts.models import AuditRecord
from engines import install
from models_app import artefacts
from models_app.models import Model
from tests.support import weight_files


@pytest.fixture
def folder(tenant, settings, tmp_path) -> Path:
    """Acme's folder of models, and beside it the place of what the tests bring."""
    settings.DATA_DIR = tmp_path / "data"
    return artefacts.tenant_folder(tenant)


def model(*arguments: str) -> str:
    out = io.StringIO()
    call_command("model", *arguments, stdout=out)
    return out.getvalue()


def hidden(folder: Path) -> list[Path]:
    return list(folder.rglob(".*")) if folder.exists() else []


def test_a_local_folder_is_copied_and_can_be_started(folder, tenant, tmp_path, settings):
    source = weight_files.folder(tmp_path / "tiny", tokenizer__json={}, deep__txt=b"x")
    said = model("add", str(source), "--tenant", "acme")
    made = Model.objects.get(name="tiny")
    assert made.pk in said
    assert "copied 100 %" in said
    assert (made.framework, made.mode, made.config, made.tenant) == ("vllm", "Chat", {"model_path": "tiny"}, tenant)
    found = artefacts.check_startable(made)
    assert found.path == folder / "tiny"
    assert sorted(path.name for path in found.path.iterdir()) == sorted(path.name for path in source.iterdir())
    assert AuditRecord.objects.get(action="model.create").actor == "command line"
    assert not hidden(folder)


def test_the_hubs_own_cache_can_be_given_with_its_links(folder, tmp_path):
    blob = tmp_path / "blobs" / "1"
    source = weight_files.folder(tmp_path / "snapshots" / "tiny")
    blob.parent.mkdir()
    (source / "model.safetensors").rename(blob)
    (source / "model.safetensors").symlink_to(blob)
    model("add", str(source), "--tenant", "acme", "--name", "from cache")
    assert Model.objects.get().name == "from cache"
    assert not (folder / "tiny" / "model.safetensors").is_symlink()


def test_a_gguf_is_for_the_other_engine(folder, tmp_path):
    (tmp_path / "llama").mkdir()
    (tmp_path / "llama" / "llama.gguf").write_bytes(weight_files.gguf())
    model("add", str(tmp_path / "llama"), "--tenant", "acme")
    assert Model.objects.get().framework == "llama.cpp"


@pytest.mark.parametrize(
    "content", [{"modeling__py": b""}, {"model__pt": b""}, {"config__json": {"auto_map": {"a": "b"}}}]
)
def test_a_folder_that_may_hold_code_is_not_copied(folder, tmp_path, content):
    with pytest.raises(CommandError, match="code"):
        model("add", str(weight_files.folder(tmp_path / "evil", **content)), "--tenant", "acme")
    assert not Model.objects.exists()
    assert list(folder.iterdir()) == []


def test_names_and_places_that_are_taken_are_not_overwritten(folder, tenant, tmp_path):
    source = str(weight_files.folder(tmp_path / "tiny"))
    model("add", source, "--tenant", "acme")
    with pytest.raises(CommandError, match="exists already"):
        model("add", source, "--tenant", "acme")
    with pytest.raises(CommandError, match="files under the name tiny"):
        model("add", source, "--tenant", "acme", "--name", "other")
    assert Model.objects.count() == 1


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["/nowhere/at/all"], "neither a folder here nor a hub id"),
        (["x"], "neither a folder here nor a hub id"),
        (["../a/b"], "neither a folder here nor a hub id"),
        (["owner/name", "--tenant", "nobody"], "no tenant nobody"),
        (["owner/name", "--name", "default"], "reserved"),
    ],
)
def test_what_cannot_be_added_is_said_in_a_line(folder, arguments, why):
    tenant = [] if "--tenant" in arguments else ["--tenant", "acme"]
    with pytest.raises(CommandError, match=why):
        model("add", *arguments, *tenant)


def test_without_an_engine_environment_there_is_no_hub_client(folder, settings, tmp_path):
    settings.CACHE_DIR = tmp_path / "cache"
    with pytest.raises(CommandError, match="engine install vllm"):
        model("add", "owner/name", "--tenant", "acme")
    assert not hidden(folder)


@pytest.fixture
def hub(folder, monkeypatch, tmp_path):
    """hub(body) is a client whose `snapshot_download(hub_id, local_dir, allow_patterns)` has that body."""
    monkeypatch.setattr(install, "is_ready", lambda engine: True)
    monkeypatch.setattr(install, "environment_python", lambda engine: Path(sys.executable))

    def client(body: str) -> None:
        package = tmp_path / "site" / "huggingface_hub"
        package.mkdir(parents=True, exist_ok=True)
        head = "import pathlib, shutil\ndef snapshot_download(hub_id, local_dir, allow_patterns):\n"
        (package / "__init__.py").write_text(head + "".join(f"    {line}\n" for line in body.splitlines()))
        monkeypatch.setenv("PYTHONPATH", str(package.parent))

    return client


def test_a_hub_id_is_fetched_without_code_and_kept_under_its_owner(hub, folder, tmp_path):
    source = weight_files.folder(tmp_path / "source", **{"modeling__py": b"", "pytorch_model__bin": b""})
    hub(f"""for pattern in allow_patterns:
    for path in pathlib.Path({str(source)!r}).glob(pattern):
        shutil.copy(path, local_dir)
pathlib.Path(local_dir, ".cache").mkdir()""")
    model("add", "Qwen/Tiny-1.5", "--tenant", "acme")
    made = Model.objects.get()
    assert (made.name, made.config) == ("Tiny-1.5", {"model_path": "Qwen/Tiny-1.5"})
    assert {path.name for path in artefacts.check_startable(made).path.iterdir()} == {
        "config.json",
        "model.safetensors",
    }


@pytest.mark.parametrize(
    ("error", "why"),
    [
        ("ConnectionError('no route')", "hub cannot be reached"),
        ("type('LocalEntryNotFoundError', (OSError,), {})('offline')", "model add <folder>"),
        ("type('RepositoryNotFoundError', (OSError,), {})('401')", "has no owner/name that you may read"),
        ("ValueError('odd')", "did not come: ValueError odd"),
    ],
)
def test_a_hub_that_does_not_give_is_explained(hub, folder, error, why):
    hub(f"raise {error}")
    with pytest.raises(CommandError, match=why):
        model("add", "owner/name", "--tenant", "acme")
    assert not Model.objects.exists()
    assert not hidden(folder)


def test_what_the_hub_gives_is_checked_too(hub, folder):
    hub("pathlib.Path(local_dir, 'config.json').write_text('{\"auto_map\": {}}')")
    with pytest.raises(CommandError, match="auto_map"):
        model("add", "owner/name", "--tenant", "acme")
    assert not Model.objects.exists()


def test_the_catalogue_is_listed_for_all_tenants_or_one(folder, tenant, stranger):
    Model.objects.create(tenant=tenant, name="ours", config={"model_path": "x"})
    Model.objects.create(tenant=stranger.default_tenant, name="theirs")
    assert model("list").splitlines() == ["acme\tours\tcreated\tx", "evil\ttheirs\tcreated\t-"]
    assert model("list", "--tenant", "acme").splitlines() == ["acme\tours\tcreated\tx"]
