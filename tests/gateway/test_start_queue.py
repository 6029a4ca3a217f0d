"""The first requests to a model that is not running: one start, each answered or told to wait, none left hanging."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import httpx
import pytest
from django.db import OperationalError

from core import errors
from gateway.routing import start_queue
from gateway.routing.snapshot import ModelEntry
from tests.support.gateway_server import CONFIG, MODEL, EngineProcess, chat, engine_folder, instance, served, snapshot
from tests.support.waiting import eventually

CHAT = "/v1/chat/completions"
HASTY = replace(MODEL, wait_timeout=0.4, start_seconds=90.0)


@pytest.fixture(scope="module")
def engine():
    with engine_folder() as folder:
        yield EngineProcess(folder)


@pytest.fixture
def cold():
    with served(snapshot()) as gateway:
        yield gateway


def many(gateway, count: int, **fields) -> list[httpx.Response]:
    """That many chats at the same time."""
    limits = httpx.Limits(max_connections=count)
    with gateway.client(limits=limits) as client, ThreadPoolExecutor(count) as pool:
        return list(pool.map(lambda _: client.post(CHAT, json=chat(**fields)), range(count)))


def publish_later(gateway, *states, model: ModelEntry = MODEL, pause: float = 0.05, crowd: int = 1):
    """As an agent would: one state after the other, once the start was asked for and a crowd of requests waits."""

    def go(model_id: str) -> None:
        if gateway.gateway.context.starts.waiting().get(model_id, 0) < crowd:
            gateway.loop.call_later(0.02, go, model_id)
            return
        for number, entry in enumerate(states, 1):
            world = snapshot(*([entry] if entry else []), models=[model])
            gateway.loop.call_later(pause * number, gateway.source.publish, world)

    gateway.on_start = go


def not_ready(reply, state: str) -> dict:
    assert reply.status_code == 503, reply.text
    error = reply.json()["error"]
    assert error["code"] == "model_not_ready"
    assert error["details"]["state"] == state
    assert int(reply.headers["retry-after"]) > 0
    return error


def test_100_first_requests_make_one_start_and_are_all_answered(cold, engine):
    starting, ready = instance("", state="starting"), instance(engine.endpoint)
    publish_later(cold, None, starting, starting, ready, crowd=100)
    replies = many(cold, 100)
    assert {reply.status_code for reply in replies} == {200}
    assert cold.starts == [MODEL.id]
    records = cold.ledger.wait(100)
    assert all(record.queue_ms > 0 for record in records)
    assert cold.gateway.context.starts.waiting() == {}


def test_a_model_that_is_starting_already_is_not_started_again(engine):
    with served(snapshot(instance("", state="starting"))) as gateway, gateway.client() as client:
        gateway.loop.call_soon_threadsafe(
            gateway.loop.call_later, 0.2, gateway.source.publish, snapshot(instance(engine.endpoint))
        )
        assert client.post(CHAT, json=chat()).status_code == 200
        assert gateway.starts == []


def test_past_the_wait_limit_a_client_is_told_the_state_and_when_to_come_back():
    with served(snapshot(models=[HASTY])) as gateway, gateway.client() as client:
        publish_later(gateway, instance("", state="starting"), model=HASTY)
        error = not_ready(client.post(CHAT, json=chat()), "starting")
        assert 80 <= error["details"]["expected_seconds"] <= 90
        [record] = gateway.ledger.wait()
        assert (record.status, record.http_status, record.instance_id) == ("rejected", 503, None)


def test_the_rest_surface_says_it_in_its_own_words():
    with served(snapshot(models=[HASTY])) as gateway, gateway.client() as client:
        reply = client.post("/api/models/demo/generate", json={"prompt": "x"})
        assert reply.status_code == 503
        assert reply.json()["error"]["code"] == "MODEL_NOT_RUNNING"
        assert reply.json()["error"]["details"]["state"] == "stopped"
        assert reply.headers["retry-after"]


def test_the_queue_is_bounded():
    with served(snapshot(models=[replace(MODEL, wait_timeout=3)]), replace(CONFIG, queue_limit=5)) as gateway:
        replies = many(gateway, 20)
        assert {reply.status_code for reply in replies} == {503}
        assert all(reply.headers["retry-after"] for reply in replies)
        assert gateway.starts == [MODEL.id]


def test_a_start_that_fails_is_told_with_its_reason_to_all_who_wait(cold):
    failed = instance("", state="failed", failure_reason="The weights do not fit.")
    publish_later(cold, instance("", state="starting"), failed, crowd=10)
    for reply in many(cold, 10):
        error = not_ready(reply, "failed")
        assert error["details"]["failure_reason"] == "The weights do not fit."
    assert cold.starts == [MODEL.id]


def test_after_a_failure_the_next_request_asks_anew(cold, engine):
    publish_later(cold, instance("", 1, state="starting"), instance("", 1, state="failed"))
    with cold.client() as client:
        not_ready(client.post(CHAT, json=chat()), "failed")
        publish_later(cold, instance(engine.endpoint, 2))
        assert client.post(CHAT, json=chat()).status_code == 200
    assert cold.starts == [MODEL.id] * 2


def test_the_advice_for_a_failure_is_told_in_the_callers_language(cold):
    failed = instance("", state="failed", failure_reason="It ended.", failure_cause="broken_weights")
    publish_later(cold, instance("", state="starting"), failed, crowd=2)
    with ThreadPoolExecutor(2) as pool, cold.client() as client:
        languages = ({"Accept-Language": language} for language in ("en", "zh"))
        english, chinese = pool.map(lambda headers: client.post(CHAT, json=chat(), headers=headers), languages)
    assert "It ended. Fetch the weights again" in not_ready(english, "failed")["message"]
    assert "请重新获取" in not_ready(chinese, "failed")["message"]


STARTING, STOPPED = instance("", state="starting"), instance("", state="stopped", wanted=False)


@pytest.mark.parametrize("asked_to_go", [replace(STARTING, wanted=False), replace(STOPPED, state="draining"), STOPPED])
def test_a_model_that_somebody_stops_while_requests_wait_lets_them_go(cold, engine, asked_to_go):
    publish_later(cold, STARTING, asked_to_go, crowd=3)
    for reply in many(cold, 3):
        assert "Somebody stopped the model" in not_ready(reply, "stopped")["message"]
    assert cold.starts == [MODEL.id]
    publish_later(cold, asked_to_go, STARTING, instance(engine.endpoint))
    with cold.client() as client:  # that stop is no news to who comes after it, and the same instance may come back
        assert client.post(CHAT, json=chat()).status_code == 200
    assert cold.starts == [MODEL.id] * 2


def test_somebodys_stop_counts_again_for_an_instance_that_had_come_back(engine):
    with served(snapshot(STOPPED)) as gateway, gateway.client() as client:
        publish_later(gateway, STARTING, STOPPED)
        not_ready(client.post(CHAT, json=chat()), "stopped")
        assert gateway.starts == [MODEL.id]


EVICTED, RESTARTED = (replace(STOPPED, stop_reason=reason) for reason in ("evicted", "restarted"))


@pytest.mark.parametrize("gone", [EVICTED, RESTARTED, None])
def test_what_the_platform_itself_ended_is_started_again_for_those_who_wait(cold, engine, gone):
    """Once: the second start is shown as it comes, and ends well."""
    publish_later(cold, STARTING, gone, gone, STARTING, instance(engine.endpoint, 2), crowd=10)
    cold.on_start = _first_only(cold.on_start)
    assert {reply.status_code for reply in many(cold, 10)} == {200}
    assert cold.starts == [MODEL.id] * 2


def _first_only(react):
    reactions = [react]
    return lambda model_id: reactions.pop()(model_id) if reactions else None


def test_a_restart_is_waited_for(engine):
    with served(snapshot(STARTING)) as gateway, gateway.client() as client:
        publish_later(gateway, replace(STARTING, state="draining"), STARTING, instance(engine.endpoint), pause=0.2)
        gateway.loop.call_soon_threadsafe(gateway.on_start, MODEL.id)
        assert client.post(CHAT, json=chat()).status_code == 200
        assert gateway.starts == []


def test_a_model_that_is_deleted_while_requests_wait_is_told_as_missing(cold):
    publish_later(cold, STARTING, crowd=3)
    with ThreadPoolExecutor(3) as pool, cold.client() as client:
        replies = [pool.submit(client.post, CHAT, json=chat()) for _ in range(3)]
        eventually(lambda: cold.gateway.context.starts.waiting() == {MODEL.id: 3})
        cold.publish(snapshot(models=[]))
        told = {(reply.result().status_code, reply.result().json()["error"]["code"]) for reply in replies}
    assert told == {(404, "model_not_found")}


@pytest.mark.parametrize(
    ("problem", "status", "code"),
    [
        (errors.InsufficientResources(retry_after=30), 503, "insufficient_resources"),
        (errors.EngineUnavailable(details={"candidates": ["/secret"]}), 503, "engine_unavailable"),
        (OperationalError("/secret"), 503, "service_unavailable"),
        (ZeroDivisionError("/secret"), 500, "internal_error"),
    ],
)
def test_a_start_that_is_refused_is_answered_with_its_cause(cold, problem, status, code):
    def refuse(_model_id: str) -> None:
        raise problem

    cold.on_start = refuse
    for reply in many(cold, 5):
        assert (reply.status_code, reply.json()["error"]["code"]) == (status, code)
        assert "secret" not in reply.text


def test_requests_wait_for_room_that_comes_and_ask_for_it_once_in_a_while(cold, engine, monkeypatch):
    monkeypatch.setattr(start_queue, "NO_ROOM_RETRY_INTERVAL", 0.05)

    def refuse_twice(_model_id: str) -> None:
        if len(cold.starts) <= 2:
            raise errors.NoRoomYet()
        cold.loop.call_later(0.05, cold.source.publish, snapshot(instance(engine.endpoint)))

    cold.on_start = refuse_twice
    assert {reply.status_code for reply in many(cold, 5)} == {200}
    assert cold.starts == [MODEL.id] * 3


def test_who_waits_for_room_in_vain_is_told_that_there_is_none(cold, monkeypatch):
    monkeypatch.setattr(start_queue, "NO_ROOM_RETRY_INTERVAL", 0.05)

    def refuse(_model_id: str) -> None:
        raise errors.NoRoomYet(retry_after=30)

    cold.on_start = refuse
    cold.publish(snapshot(models=[HASTY]))
    with cold.client() as client:
        reply = client.post(CHAT, json=chat())
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "insufficient_resources")
    assert reply.headers["retry-after"] == "30"
    asked = len(cold.starts)
    eventually(lambda: not cold.gateway.context.starts.waiting())
    with cold.client() as client:
        client.post(CHAT, json=chat())
    assert len(cold.starts) > asked  # nothing is remembered of the queue that gave up


def test_a_client_that_leaves_while_waiting_is_settled_and_the_start_goes_on(cold, engine):
    with cold.client() as client:
        with pytest.raises(httpx.ReadTimeout):
            client.post(CHAT, json=chat(), timeout=0.3)
        assert cold.ledger.wait()[0].status == "client_closed"
        eventually(lambda: not cold.gateway.context.starts.waiting())
        cold.publish(snapshot(instance(engine.endpoint)))
        assert client.post(CHAT, json=chat()).status_code == 200


def test_waiting_requests_are_shown_to_the_agents(cold, engine):
    with ThreadPoolExecutor(3) as pool, cold.client() as client:
        replies = [pool.submit(client.post, CHAT, json=chat()) for _ in range(3)]
        eventually(lambda: cold.gateway.describe()["waiting"] == {MODEL.id: 3})
        cold.publish(snapshot(instance(engine.endpoint)))
        assert {reply.result().status_code for reply in replies} == {200}
    state = cold.gateway.describe()
    assert state["routes"] == ["instance-1"]
    assert state["waiting"] == state["inflight"] == {}
    assert state["idle"].keys() == {"instance-1"}


def test_a_request_that_is_wrong_starts_nothing(cold):
    with cold.client() as client:
        assert client.post(CHAT, json=chat(n=99)).status_code == 400
    assert cold.starts == []
