"""manage.py on a machine where nothing is installed: tiny locks, no network, real virtual environments."""

import ast
import hashlib
import os
import runpy
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.up_process import ROOT, small_disk

PYTHON = sys._base_executable
COMMANDS = """import sys
from importlib.metadata import version

def run(arguments):
    print("inside", sys.prefix, "with", version("serai-toy"))
    return 0
"""


class Checkout:
    """A checkout whose lock holds one package of ours, found in a folder instead of an index."""

    def __init__(self, folder: Path, uv: bool):
        self.folder, self.links = folder / "checkout", folder / "links"
        launcher = self.folder / "platform" / "launcher"
        launcher.mkdir(parents=True)
        self.links.mkdir()
        shutil.copy(ROOT / "manage.py", self.folder)
        for name in ("__init__.py", "bootstrap.py", "data_folder.py", "start_errors.py"):
            shutil.copy(ROOT / "platform" / "launcher" / name, launcher)
        (launcher / "commands.py").write_text(COMMANDS)
        (self.folder / "requirements-dev.txt").write_text("")
        self.lock("1.0", make_wheel(self.links, "1.0"))
        self.path = self._path_with_uv(folder) if uv else "/usr/bin:/bin"

    def lock(self, version: str, digest: str) -> None:
        (self.folder / "requirements.txt").write_text(f"serai-toy=={version} \\\n    --hash=sha256:{digest}\n")

    def start(self, *words: str, **environment: str) -> subprocess.Popen:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_", "SERAI_"))}
        offline = {"PIP_NO_INDEX": "1", "UV_NO_INDEX": "1", "UV_OFFLINE": "1", "PIP_CONFIG_FILE": os.devnull}
        links = {"PIP_FIND_LINKS": str(self.links), "UV_FIND_LINKS": str(self.links)}
        return subprocess.Popen(
            [PYTHON, "manage.py", *words],
            cwd=self.folder,
            env={**kept, **offline, **links, "PATH": self.path, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *words: str, **environment: str) -> tuple[int, str]:
        process = self.start(*words, **environment)
        text, _ = process.communicate(timeout=120)
        return process.returncode, text

    def refusal(self, **environment: str) -> str:
        """The one line with which it refuses."""
        code, text = self.run("check", **environment)
        lines = [line for line in text.splitlines() if "…" not in line]  # progress
        assert code == 1 and len(lines) == 1, text
        return lines[0]

    def _path_with_uv(self, folder: Path) -> str:
        programs = folder / "programs"
        programs.mkdir()
        (programs / "uv").symlink_to(shutil.which("uv", path=f"{sys.prefix}/bin:{os.environ['PATH']}"))
        return f"{programs}:/usr/bin:/bin"


def make_wheel(folder: Path, version: str) -> str:
    """Writes a wheel of serai-toy and returns its hash."""
    path = folder / f"serai_toy-{version}-py3-none-any.whl"
    info = f"serai_toy-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("serai_toy.py", "")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: serai-toy\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", f"serai_toy.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def checkout(tmp_path) -> Checkout:
    return Checkout(tmp_path, uv=True)


@pytest.fixture
def without_uv(tmp_path) -> Checkout:
    return Checkout(tmp_path, uv=False)


def test_the_first_start_makes_the_environment_and_the_second_needs_no_packages(checkout):
    code, text = checkout.run("check")
    assert code == 0 and f"inside {checkout.folder}/.venv" in text
    shutil.rmtree(checkout.links)
    assert checkout.run("check") == (0, text.splitlines()[-1] + "\n")


def test_without_uv_pip_installs_the_same_lock(without_uv):
    code, text = without_uv.run("check")
    assert code == 0 and f"inside {without_uv.folder}/.venv" in text


def test_two_first_starts_at_once_share_one_environment(checkout):
    both = [checkout.start("check"), checkout.start("check")]
    texts = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], texts
    assert all("inside" in text for text in texts)


def test_a_changed_lock_is_installed_at_the_next_start(checkout):
    checkout.run("check")
    checkout.lock("1.1", make_wheel(checkout.links, "1.1"))
    code, text = checkout.run("check")
    assert code == 0 and "with 1.1" in text


def test_an_environment_whose_python_has_gone_is_made_anew(checkout):
    checkout.run("check")
    python = checkout.folder / ".venv" / "bin" / "python"
    python.unlink()
    python.symlink_to("/nowhere/python3")
    code, _ = checkout.run("check")
    assert code == 0


def test_a_wrong_hash_is_refused_in_one_line(checkout):
    checkout.lock("1.0", "0" * 64)
    assert "differs from its lock" in checkout.refusal()


def test_no_network_at_the_first_start_is_said_in_one_line(checkout):
    shutil.rmtree(checkout.links)
    checkout.links.mkdir()
    assert "network" in checkout.refusal()


def test_a_missing_venv_module_is_said_with_the_package_that_brings_it(without_uv, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "venv.py").write_text("raise SystemExit('No, because ensurepip is not\\navailable.')")
    assert "apt-get install python3-venv" in without_uv.refusal(PYTHONPATH=str(broken))


def test_a_full_disk_is_said_before_anything_is_installed(checkout):
    place = checkout.folder.with_name("small")
    copy_and_start = 'cp -r "$2/." "$1" && cd "$1" && exec "$3" manage.py check'
    command = ["sh", "-c", copy_and_start, "sh", str(place), str(checkout.folder), PYTHON]
    done = subprocess.run([*small_disk(place, "4m"), *command], capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and "MB are free" in done.stderr


def test_an_old_python_is_told_which_one_is_needed(monkeypatch):
    ast.parse((ROOT / "manage.py").read_text(), feature_version=(3, 7))
    monkeypatch.setattr(sys, "version_info", (3, 10, 2, "final", 0))
    with pytest.raises(SystemExit, match=r"Python 3\.11 or newer is needed; this is Python 3\.10"):
        runpy.run_path(str(ROOT / "manage.py"))


def test_an_interpreter_that_has_all_packages_is_used_as_it_is(checkout):
    code, text = checkout.run(
        "check", SERAI_NO_VENV="1", PYTHONPATH=str(checkout.links / "serai_toy-1.0-py3-none-any.whl")
    )
    assert code == 0 and not (checkout.folder / ".venv").exists()
    assert f"inside {sys.base_prefix}" in text


def test_the_exit_code_of_the_test_command_is_that_of_pytest():
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    words = [
        "test",
        "-n",
        "0",
        "--collect-only",
        "-q",
        "-k",
        "no_test_has_this_name",
        "tests/launcher/test_deployment.py",
    ]
    done = subprocess.run(
        [sys.executable, "manage.py", *words], cwd=ROOT, env={**environment, "SERAI_NO_VENV": "1"}, capture_output=True
    )
    assert done.returncode == pytest.ExitCode.NO_TESTS_COLLECTED
