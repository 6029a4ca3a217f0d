"""Real, temporary Postgres and Valkey for the tests: started before Django reads its settings, ended with pytest."""

import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest
from xdist.scheduler import LoadScopeScheduling

SHARED_PRODUCT = ("tests/live/", "tests/real/")  # each starts one running product for all of its tests
PLATFORM = Path(__file__).resolve().parents[2] / "platform"
sys.path.insert(0, str(PLATFORM))  # pytest itself does it later than it loads this plugin

from launcher.start_errors import CannotStart  # noqa: E402
from launcher.temporary_servers import TemporaryServers  # noqa: E402

data_folder = pytest.StashKey[Path]()
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


def pytest_unconfigure(config: pytest.Config) -> None:
    """At the end the reaper ends the processes that tests have left running."""
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
