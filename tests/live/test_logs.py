"""Logs of the whole product: what an engine writes under its shim is read, followed and kept over deaths."""

import json
import os
import signal
from itertools import islice

from tests.live.test_lifecycle import chat, engine_pid, info, worker_of
from tests.support.live_product import Person, running
from tests.support.waiting import eventually

LOADING, READY, WORDS = "fake engine: loading weights", "fake engine: ready", "ValueError: the rope is short"
DEATH = {"crash_before_ready": {"code": 3, "stderr": WORDS}}


def lines(person, model) -> list[str]:
    return [line["message"] for line in person.get(f"/api/models/{model}/logs?lines=1000").json()["logs"]]


def events(person, model, **query):
    """The messages of a stream, as they come."""
    with person.client.stream("GET", f"/api/models/{model}/logs/stream", params=query) as reply:
        for line in reply.iter_lines():
            if line.startswith("data: "):
                yield json.loads(line[6:])


def test_the_words_of_an_engine_that_died_are_kept_and_explained(acme, key, stranger):
    model = acme.fake_model(behaviour=DEATH)
    assert chat(key, model).status_code == 503
    eventually(lambda: lines(key, model) == [LOADING, WORDS])
    (crash,) = key.get(f"/api/models/{model}/crashes").json()["crashes"]
    assert "the rope is short (exit code 3)" in crash["reason"]
    assert crash["reason"] in info(key, model)["failure_reason"]
    for route in ("logs", "crashes", "logs/stream"):
        assert stranger.get(f"/api/models/{model}/{route}").status_code == 404


def test_a_reader_with_a_ticket_sees_a_start_as_it_happens(acme, product, viewer, key):
    model = acme.fake_model(behaviour=DEATH)
    ticket = viewer.post("/api/auth/ticket").json()["ticket"]
    stream = events(Person("browser", product.client(), ""), model, ticket=ticket)
    assert next(stream) == {"type": "historical_complete"}
    key.post(f"/api/models/{model}/start")
    lines_shown = [(event["type"], event["log"]["message"]) for event in islice(stream, 2)]
    assert lines_shown == [("realtime", LOADING), ("realtime", WORDS)]


def test_a_killed_engine_and_a_killed_worker_lose_and_double_no_line(product, acme, key, operator):
    model = acme.fake_model()
    chat(key, model)
    eventually(lambda: lines(key, model) == [LOADING, READY])
    killed = worker_of(product)
    killed.kill()
    os.kill(engine_pid(operator, acme, model), signal.SIGKILL)
    eventually(lambda: worker_of(product) not in (None, killed))
    eventually(lambda: chat(key, model).status_code == 200, 60)
    eventually(lambda: lines(key, model) == [LOADING, READY] * 2)
    assert key.get(f"/api/models/{model}/crashes").json()["causes"][0]["cause"] == "killed"


def test_cleared_logs_are_gone_and_a_strangers_wish_is_none(acme, key, stranger):
    model = acme.fake_model(behaviour=DEATH)
    chat(key, model)
    eventually(lambda: len(lines(key, model)) == 2)
    assert stranger.post(f"/api/logs/{model}/clear").status_code == 404
    assert key.post(f"/api/logs/{model}/clear?keep_minutes=5").json()["success"] is True
    assert len(lines(key, model)) == 2
    key.post(f"/api/logs/{model}/clear")
    assert lines(key, model) == []


def test_an_open_stream_is_told_that_the_product_ends(tmp_path):
    with running(tmp_path / "data") as product:
        operator = product.operator
        model = operator.get("/api/models").json()["items"][0]["id"]
        stream = events(operator, model)
        next(stream)
        product.process.send_signal(signal.SIGTERM)
        assert [message["type"] for message in stream] == ["stream_end"]
