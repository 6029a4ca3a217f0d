"""Real, temporary Postgres and Valkey for the tests: started before Django reads its settings, ended with pytest."""

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from xdist.scheduler import LoadScopeScheduling

SHARED_PRODUCT = ("tests/live/", "tests/real/")  # each starts one running product for all of its tests
ENGINES = ("llama.cpp", "vllm")
MANAGE = Path(__file__).resolve().parents[2] / "manage.py"
PLATFORM = Path(__file__).resolve().parents[2] / "platform"
sys.path.insert(0, str(PLATFORM))  # pytest itself does it later than it loads this plugin

from launcher.start_errors import CannotStart  # noqa: E402
from launcher.temporary_servers import TemporaryServers  # noqa: E402

data_folder = pytest.StashKey[Path]()
installers = pytest.StashKey[list["EngineInstaller"]]()
servers = pytest.StashKey[TemporaryServers]()


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker:
        _use_own_sandbox(worker)
        return
    try:
        _start_servers(early_config)
    except CannotStart as problem:
        raise pytest.UsageError(str(problem)) from problem
    if _runs_real_engines(early_config.known_args_namespace.file_or_dir):
        early_config.stash[installers] = [EngineInstaller(name) for name in ENGINES]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """What belongs to a fresh machine is told apart from the tests' own time."""
    for installer in config.stash.get(installers, []):
        terminalreporter.write_line(installer.result())


def pytest_unconfigure(config: pytest.Config) -> None:
    """At the end the reaper ends the processes that tests have left running."""
    for installer in config.stash.get(installers, []):
        installer.stop()
    if servers in config.stash:
        config.stash[servers].stop()
    if data_folder in config.stash:
        shutil.rmtree(config.stash[data_folder], ignore_errors=True)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log) -> LoadScopeScheduling:
    return OneWorkerPerFile(config, log)


class OneWorkerPerFile(LoadScopeScheduling):
    """Tests of one file run in one xdist worker; so do all of tests/live, and all of tests/real."""

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0]
        return next((folder for folder in SHARED_PRODUCT if path.startswith(folder)), path)


class EngineInstaller:
    """Installs an engine beside the tests, from the first second: to compile one takes minutes.

    A test that needs the engine asks for the same installation and waits for its lock.
    """

    def __init__(self, name: str):
        self.name, self._began, self._seconds = name, time.monotonic(), 0.0
        command = [sys.executable, str(MANAGE), "engine", "install", name]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        threading.Thread(target=self._wait, daemon=True).start()

    def result(self) -> str:
        if self._process.poll() is None:
            return f"engine {self.name}: still being installed"
        outcome = "installed" if self._process.returncode == 0 else "not installed"
        return f"engine {self.name}: {outcome} after {self._seconds:.0f} s, beside the tests"

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()

    def _wait(self) -> None:
        self._process.wait()
        self._seconds = time.monotonic() - self._began


def _runs_real_engines(chosen: list[str]) -> bool:
    return not chosen or any(Path(path).name in ("tests", "real") or "tests/real/" in path for path in chosen)


def _start_servers(config: pytest.Config) -> None:
    data = config.stash[data_folder] = Path(tempfile.mkdtemp(prefix="serai-tests-"))
    os.environ["SERAI_DATA"] = str(data)
    config.stash[servers] = TemporaryServers(data)
    os.environ.update(config.stash[servers].start())


def _use_own_sandbox(worker: str) -> None:
    """Data folder and Valkey database of one xdist worker; its Postgres database comes from pytest-django."""
    number = int(worker.removeprefix("gw"))
    data = Path(os.environ["SERAI_DATA"]) / worker
    data.mkdir(mode=0o700, exist_ok=True)
    os.environ["SERAI_DATA"] = str(data)
    address, _, _ = os.environ["REDIS_URL"].rpartition("/")
    os.environ["REDIS_URL"] = f"{address}/{1 + number % 15}"
