"""What an operator sees of a process from within: its loops, and whose request a log line belongs to."""

import io
import json
import logging

import pytest
from django.db import DatabaseError

from accounts import views
from core import logs, periodic
from core.periodic import LoopSeverity, Periodic
from core.scheduler import ScheduledJob


@pytest.fixture
def log():
    """log(formatter) is a stream with what is logged from then on."""
    handlers = []

    def listening(formatter: logging.Formatter) -> io.StringIO:
        handler = logging.StreamHandler(io.StringIO())
        handler.setFormatter(formatter)
        for kind in (logs.RedactFilter, logs.FieldsFilter):
            handler.addFilter(kind())
        logging.getLogger().addHandler(handler)
        handlers.append(handler)
        return handler.stream

    yield listening
    for handler in handlers:
        logging.getLogger().removeHandler(handler)


def test_a_bug_is_logged_with_the_id_and_the_tenant_of_the_request(api, operator, tenant, log, monkeypatch):
    def broken():
        raise RuntimeError("a bug")

    monkeypatch.setattr(views.configuration, "current", broken)
    stream = log(logs.JsonFormatter())
    client = api(operator, **{"X-Request-Id": "from-the-client", "Serai-Tenant": tenant.slug})
    client.raise_request_exception = False
    assert client.get("/api/config").status_code == 500
    found = [json.loads(line) for line in stream.getvalue().splitlines()]
    told = next(line for line in found if "a bug" in line.get("traceback", ""))
    assert (told["request_id"], told["tenant"], told["level"]) == ("from-the-client", tenant.pk, "ERROR")
    assert told["time"].endswith("Z")


def test_fields_end_with_the_request(log):
    stream = log(logs.PlainFormatter())
    with logs.bound(request_id="one"):
        logs.bind(tenant="acme")
        logging.getLogger("serai").warning("inside")
    logging.getLogger("serai").warning("outside")
    assert stream.getvalue() == "WARNING serai: inside [request_id=one tenant=acme]\nWARNING serai: outside\n"


def test_a_key_in_a_message_is_masked_in_json_too(log):
    stream = log(logs.JsonFormatter())
    logging.getLogger("serai").warning("refused %s", "sk-serai-abcdefghijklmnop")
    assert json.loads(stream.getvalue())["message"] == "refused sk-serai-abcd***"


def test_a_loop_tells_when_it_last_turned_and_what_went_wrong():
    loop = Periodic("a test's loop", LoopSeverity.HIGH, 1)
    with loop.turn():
        assert loop in periodic.loops()
    assert loop.turns == 1 and loop.began_at <= loop.ended_at and loop.error == ""
    with pytest.raises(KeyError), loop.turn():
        raise KeyError("secret")
    assert loop.error == "KeyError"
    loop.end()
    assert loop not in periodic.loops()


def test_a_loop_without_a_turn_for_long_is_stuck_and_by_its_own_pace(monkeypatch):
    often, rarely = Periodic("often", LoopSeverity.CRITICAL, 1), Periodic("rarely", LoopSeverity.LOW, 3600)
    assert not often.stuck
    now = periodic.time.monotonic()
    monkeypatch.setattr(periodic.time, "monotonic", lambda: now + 60)
    assert often.stuck and not rarely.stuck


def test_a_duty_that_fails_is_tried_again_at_its_time_and_says_so():
    calls = []

    def work():
        calls.append(None)
        raise DatabaseError

    duty = ScheduledJob("a duty of a test", 3600, work)
    with pytest.raises(DatabaseError):
        duty.run_if_due()
    duty.run_if_due()
    assert len(calls) == 1 and duty.loop.error == "DatabaseError"
    duty.loop.end()
