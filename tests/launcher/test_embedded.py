"""The embedded servers: what they let in, and under whom they run."""

import os
import shutil
import tempfile
from pathlib import Path

import psycopg
import pytest
import redis
from django.conf import settings
from django.db import connection

from tests.support.up_process import ALONE, Up, toy_checkout

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has to become somebody else")


@pytest.mark.django_db
def test_tests_run_on_a_real_postgres_as_a_role_that_is_no_superuser():
    assert connection.vendor == "postgresql"
    with connection.cursor() as cursor:
        cursor.execute("SELECT rolsuper, rolcreatedb FROM pg_roles WHERE rolname = current_user")
        assert cursor.fetchone() == (False, True)


def test_the_superuser_cannot_log_in():
    url = os.environ["DATABASE_URL"].replace("//serai:", "//postgres:")
    with pytest.raises(psycopg.OperationalError, match="no pg_hba.conf entry"):
        psycopg.connect(url)


def test_valkey_wants_a_password():
    assert redis.Redis.from_url(settings.REDIS_URL).ping()
    with pytest.raises(redis.AuthenticationError):
        redis.Redis.from_url(f"redis://{settings.REDIS_URL.rpartition('@')[2]}").ping()


@pytest.fixture
def reachable():
    """A folder that other accounts can reach, as pytest's own folders are not."""
    folder = Path(tempfile.mkdtemp(prefix="serai-embedded-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def programs(tmp_path) -> str:
    """A PATH on a machine that, as most containers, lets nobody make a user namespace."""
    refuse = tmp_path / "programs" / "unshare"
    refuse.parent.mkdir()
    refuse.write_text("#!/bin/sh\nexit 1\n")
    refuse.chmod(0o755)
    return f"{refuse.parent}:{os.environ['PATH']}"


@pytest.fixture
def start(tmp_path):
    started = []

    def start(data: Path, **environment) -> Up:
        manage = tmp_path / "toy" / "manage.py"
        up = Up(manage if manage.exists() else toy_checkout(tmp_path / "toy"), data, **ALONE, **environment)
        started.append(up)
        return up

    yield start
    for up in started:
        up.close()


@as_root
def test_where_namespaces_are_forbidden_root_starts_the_servers_under_an_account(start, reachable, programs):
    up = start(reachable / "data", PATH=programs)
    up.wait_until_ready()
    owners = {process.name(): process.uids().real for process in up.left()}
    assert owners["postgres"] != 0 and owners["valkey-server"] != 0
    up.interrupt()
    assert up.end() == 0
    again = start(reachable / "data")
    again.wait_until_ready()


@as_root
def test_a_folder_that_the_account_cannot_reach_is_refused_in_one_line(start, tmp_path, programs):
    tmp_path.chmod(0o700)
    up = start(tmp_path / "data", PATH=programs)
    assert up.end() == 1
    assert up.text.count("\n") == 1 and "ordinary user" in up.text and "DATABASE_URL" in up.text


def test_a_lock_that_a_reboot_left_and_whose_number_somebody_else_got_is_removed(start, tmp_path):
    first = start(tmp_path / "data")
    first.wait_until_ready()
    first.interrupt()
    assert first.end() == 0
    (tmp_path / "data" / "pg18" / "postmaster.pid").write_text(f"{os.getpid()}\n{tmp_path / 'data' / 'pg18'}\n")
    start(tmp_path / "data").wait_until_ready()


def test_an_interrupted_first_start_is_made_good(start, tmp_path):
    (tmp_path / "data" / "pg18.new").mkdir(parents=True)
    (tmp_path / "data" / "pg18.new" / "PG_VERSION").write_text("18")
    start(tmp_path / "data").wait_until_ready()
