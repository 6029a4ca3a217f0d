"""The whole product under `manage.py up`, with its own Postgres and Valkey, as on a new user's machine."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest

from tests.support.up_process import ALONE, ROOT, Up
from tests.support.waiting import eventually

LOOPBACK_UP = """import fcntl, os, socket, struct, sys
with socket.socket() as any_socket:
    fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh", b"lo", 1))  # SIOCSIFFLAGS, IFF_UP
os.execvp(sys.argv[1], sys.argv[1:])
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("up") / "data"


@pytest.fixture(scope="module")
def up(data) -> Up:
    """The first start, in an empty folder."""
    up = Up(ROOT / "manage.py", data, **ALONE)
    yield up
    up.close()


@pytest.fixture
def first_run(up) -> dict:
    up.wait_until_ready()
    return json.loads((up.data / "first-run.json").read_text())


def server(up: Up, name: str) -> psutil.Process | None:
    """The topmost process of an embedded server."""
    children = psutil.Process(up.process.pid).children()
    return next((child for child in children if child.name().startswith(name)), None)


def answers(record: dict) -> bool:
    """Whether the first key is let in: the web process and the database are at work."""
    headers = {"Authorization": f"Bearer {record['api_key']}"}
    try:
        return httpx.get(f"{record['base_url']}/api/models", headers=headers, timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def test_the_first_start_leaves_a_record_of_its_credentials_for_the_owner_only(up, first_run):
    assert set(first_run) == {"base_url", "console_url", "username", "password", "tenant", "api_key", "model"}
    assert stat.S_IMODE((up.data / "first-run.json").stat().st_mode) == 0o600
    assert all(stat.S_IMODE(folder.stat().st_mode) == 0o700 for folder in (up.data, up.data / "private"))
    assert answers(first_run)


def test_a_stranger_with_another_key_is_not_let_in(first_run):
    assert not answers({**first_run, "api_key": "sk-serai-" + "x" * 43})


@pytest.mark.parametrize("name", ["postgres", "valkey"])
def test_a_killed_server_comes_back_and_keys_work_again(up, first_run, name):
    killed = server(up, name)
    killed.kill()
    up.wait_for(rf"{name} ended \(SIGKILL\)")
    assert eventually(lambda: server(up, name)).pid != killed.pid
    eventually(lambda: answers(first_run))


def test_a_command_in_another_terminal_finds_the_servers(up, first_run):
    environment = {**os.environ, "SERAI_DATA": str(up.data), "SERAI_NO_VENV": "1"}
    alone = {name: value for name, value in environment.items() if name not in ("DATABASE_URL", "REDIS_URL")}
    command = [sys.executable, str(ROOT / "manage.py"), "migrate", "--check"]
    done = subprocess.run(command, env=alone, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_without_up_a_command_says_that_the_database_is_away(tmp_path):
    environment = {**os.environ, "SERAI_DATA": str(tmp_path), "DATABASE_URL": "postgres://serai@127.0.0.1:1/serai"}
    command = [sys.executable, str(ROOT / "manage.py"), "migrate", "--check"]
    done = subprocess.run(command, env={**environment, "SERAI_NO_VENV": "1"}, capture_output=True, text=True)
    assert done.returncode == 1 and "manage.py up" in done.stderr and "Traceback" not in done.stderr


def test_a_start_after_the_first_keeps_all_data_needs_no_network_and_shows_no_secret_again(tmp_path):
    data = tmp_path / "data"
    first = Up(ROOT / "manage.py", data, terminal=True, **ALONE)
    first.wait_until_ready()
    record = json.loads((data / "first-run.json").read_text())
    first.wait_for(rf"Login +{record['username']} / {record['password']}\n")
    first.wait_for(rf"API key +{record['api_key']}\n")
    first.interrupt()
    assert first.end() == 0 and first.left() == []
    second = Up(ROOT / "manage.py", data, prefix=no_network(), terminal=True, **ALONE, SERAI_NO_VENV=None)
    second.wait_until_ready()
    second.wait_for("curl ")
    kept = json.loads((data / "first-run.json").read_text())
    assert (kept["password"], kept["api_key"]) == (record["password"], record["api_key"])
    assert kept["password"] not in second.text and kept["api_key"] not in second.text
    second.interrupt()
    assert second.end() == 0 and second.left() == []


def test_the_first_start_without_a_terminal_shows_no_secret(up, first_run):
    up.wait_for(rf"are in {up.data}/first-run.json")
    assert first_run["password"] not in up.text and first_run["api_key"] not in up.text
    assert "/console/enter/" not in up.text


def no_network() -> list[str]:
    """Words in front of a command that leave it nothing but a loopback device."""
    mapped = [] if os.geteuid() == 0 else ["--map-root-user"]
    words = ["unshare", "--net", *mapped, sys.executable, "-c", LOOPBACK_UP]
    if subprocess.run([*words, "true"], capture_output=True).returncode:
        pytest.skip("this machine allows no network namespaces")
    return words
