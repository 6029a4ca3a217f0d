"""What the first start makes and prints: secrets once and for a terminal only, and no failure without an operator."""

import io
import json
import stat
from pathlib import Path

import pytest
from django.core.management import call_command

from accounts.models import OneTimeLink, User


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def data(db, tmp_path, settings) -> Path:
    settings.DATA_DIR = tmp_path
    return tmp_path


def first_run(*options: str, out: io.StringIO | None = None) -> dict:
    out = out or io.StringIO()
    call_command("first_run", *options, stdout=out)
    return json.loads(out.getvalue())


def record_in(data: Path) -> dict:
    return json.loads((data / "first-run.json").read_text())


def test_a_log_gets_no_secret_but_the_place_where_they_lie(data):
    told, kept = first_run(), record_in(data)
    assert stat.S_IMODE((data / "first-run.json").stat().st_mode) == 0o600
    assert (told["password"], told["api_key"], told["login_link"]) == (None, None, None)
    assert told["record_file"] == str(data / "first-run.json") and told["username"] == kept["username"]
    assert kept["password"] and kept["api_key"].startswith("sk-serai-")
    assert OneTimeLink.objects.count() == 0


@pytest.mark.parametrize("how", ["a terminal", "--with-secrets"])
def test_secrets_are_shown_once(data, how):
    options = [] if how == "a terminal" else [how]
    told = [first_run(*options, out=None if options else Terminal()) for _start in range(2)]
    assert (told[0]["password"], told[0]["api_key"]) == (record_in(data)["password"], record_in(data)["api_key"])
    assert (told[1]["password"], told[1]["api_key"]) == (None, None)
    assert told[1]["login_link"] and told[0]["login_link"] != told[1]["login_link"]


def test_a_record_that_was_deleted_is_named_no_more(data):
    first_run()
    (data / "first-run.json").unlink()
    assert first_run()["record_file"] is None


def test_without_an_operator_it_goes_on_and_after_operator_add_there_is_a_link_again(data):
    assert first_run("--with-secrets")["has_operator"]
    User.objects.all().delete()
    told = first_run("--with-secrets")
    assert (told["has_operator"], told["login_link"]) == (False, None)
    call_command("operator", "add", "rescue", stdout=Terminal())
    told = first_run("--with-secrets")
    assert told["has_operator"] and told["login_link"]
