"""Real, throw-away Postgres and Valkey for the tests, up before Django's settings are read."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

# pytest sets the path only after it has loaded this plugin
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "platform"))

from launcher import embedded
from launcher.problems import CannotStart
from launcher.service import Service

servers = pytest.StashKey[list[tuple[Service, subprocess.Popen]]]()
folder = pytest.StashKey[Path]()


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    early_config.stash[servers] = []
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker:
        _use_own_corner(worker)
        return
    try:
        _start_servers(early_config)
    except CannotStart as problem:
        raise pytest.UsageError(str(problem)) from problem


def pytest_unconfigure(config: pytest.Config) -> None:
    for service, process in reversed(config.stash.get(servers, [])):
        process.send_signal(service.stop_signal)
        process.wait(timeout=15)
    if folder in config.stash:
        shutil.rmtree(config.stash[folder], ignore_errors=True)


def _start_servers(config: pytest.Config) -> None:
    data = config.stash[folder] = Path(tempfile.mkdtemp(prefix="serai-tests-"))
    os.environ["SERAI_DATA"] = str(data)
    for server in embedded.prepare(data, durable=False):
        config.stash[servers].append((server.service, _start(server.service, data)))
        os.environ[server.variable] = server.url
    for service, process in config.stash[servers]:
        _wait_for(service, process, data)


def _start(service: Service, data: Path) -> subprocess.Popen:
    with (data / f"{service.name}.log").open("wb") as log:
        output = {"stdout": log, "stderr": log}
        return subprocess.Popen(service.command, start_new_session=True, **output, **service.options)


def _wait_for(service: Service, process: subprocess.Popen, data: Path) -> None:
    while not service.ready():
        if process.poll() is not None:
            raise pytest.UsageError(f"{service.name} ended: {(data / f'{service.name}.log').read_text()}")
        time.sleep(0.05)


def _use_own_corner(worker: str) -> None:
    """Data folder and Valkey database of one xdist worker; its Postgres database comes from pytest-django."""
    number = int(worker.removeprefix("gw"))
    data = Path(os.environ["SERAI_DATA"]) / worker
    data.mkdir(mode=0o700, exist_ok=True)
    os.environ["SERAI_DATA"] = str(data)
    address, _, _ = os.environ["REDIS_URL"].rpartition("/")
    os.environ["REDIS_URL"] = f"{address}/{1 + number % 15}"
