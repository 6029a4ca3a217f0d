"""Several replicas of one model: which one gets a request, and who steps in when it dies before the first byte."""

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from tests.support.gateway_server import (
    MALLORY,
    MODEL,
    EngineProcess,
    chat,
    engine_folder,
    instance,
    key,
    served,
    snapshot,
)

CHAT = "/v1/chat/completions"


@pytest.fixture
def folder():
    with engine_folder() as path:
        yield path


@pytest.fixture
def engines(folder):
    return [EngineProcess(folder) for _number in range(2)]


def world(engines, **fields):
    return snapshot(*(instance(engine.endpoint, number) for number, engine in enumerate(engines)), **fields)


def used(gateway, count: int) -> list[str]:
    return [record.instance_id for record in gateway.ledger.wait(count)]


def test_a_conversation_stays_with_its_replica_and_strangers_have_their_own(engines):
    public = replace(MODEL, public=True)
    with served(world(engines, models=[public])) as gateway, gateway.client() as client:
        for text in ("one", "two", "three"):
            more = [{"role": "assistant", "content": text}, {"role": "user", "content": "go on"}]
            messages = [{"role": "user", "content": "the beginning"}, *more]
            assert client.post(CHAT, json={**chat(), "messages": messages}).status_code == 200
        assert len(set(used(gateway, 3))) == 1
        with gateway.client(MALLORY) as stranger:
            for number in range(12):
                assert stranger.post(CHAT, json=chat(f"question {number}")).status_code == 200
        assert set(used(gateway, 15)[3:]) == {"instance-0", "instance-1"}


def test_many_requests_of_one_beginning_use_both_replicas(folder):
    slow = [EngineProcess(folder, token_interval=0.05) for _number in range(2)]
    with served(world(slow)) as gateway, gateway.client() as client, ThreadPoolExecutor(20) as pool:
        replies = list(pool.map(lambda _: client.post(CHAT, json=chat("same", max_tokens=10)), range(20)))
        assert {reply.status_code for reply in replies} == {200}
        assert min(Counter(used(gateway, 20)).values()) >= 4


@pytest.mark.parametrize("stream", [False, True])
def test_a_dead_replica_is_asked_once_and_then_left_alone(engines, stream):
    engines[0].kill()
    with served(world(engines)) as gateway, gateway.client() as client:
        for number in range(20):
            assert client.post(CHAT, json=chat(f"question {number}", stream=stream)).status_code == 200
        assert set(used(gateway, 20)) == {"instance-1"}
        assert set(gateway.gateway.context.traffic.recently_failed()) <= {("instance-0", 1)}


def test_a_replica_that_is_ready_anew_is_asked_again(engines):
    engines[0].kill()
    with served(world(engines)) as gateway, gateway.client() as client:
        for number in range(10):
            assert client.post(CHAT, json=chat(f"question {number}")).status_code == 200
        engines[0].start()
        anew = instance(engines[0].endpoint, 0, generation=2)
        gateway.publish(snapshot(anew, instance(engines[1].endpoint, 1)))
        for number in range(20):
            assert client.post(CHAT, json=chat(f"question {number}")).status_code == 200
        assert "instance-0" in used(gateway, 30)[10:]


@pytest.mark.parametrize("stream", [False, True])
def test_an_engine_that_says_it_cannot_serve_is_passed_over(folder, stream):
    refusing, good = EngineProcess(folder, error_status=503), EngineProcess(folder)
    with served(world([refusing, good])) as gateway, gateway.client() as client:
        for number in range(10):
            assert client.post(CHAT, json=chat(f"question {number}", stream=stream)).status_code == 200
        assert set(used(gateway, 10)) == {"instance-1"}


def test_where_all_refuse_the_client_is_told_and_nothing_goes_round_in_circles(folder):
    refusing = [EngineProcess(folder, error_status=503) for _number in range(3)]
    with served(world(refusing)) as gateway, gateway.client() as client:
        reply = client.post(CHAT, json=chat())
        assert reply.status_code == 503
        assert "error" in json.loads(reply.text)
        assert gateway.gateway.context.traffic.instances.busy() == {}


def test_a_request_that_reached_no_engine_waits_for_the_next_run(engines):
    """Its agent has seen the crash: there is nothing else to wait for, and nothing was done twice."""
    engines[0].kill()
    with served(world(engines[:1])) as gateway, gateway.client() as client:
        crashed = snapshot(instance("", 0, state="pending", generation=1))
        again = snapshot(instance(engines[1].endpoint, 0, generation=2))
        for seconds, news in ((0.2, crashed), (0.6, again)):
            gateway.loop.call_soon_threadsafe(gateway.loop.call_later, seconds, gateway.source.publish, news)
        assert client.post(CHAT, json=chat()).status_code == 200
        assert gateway.ledger.wait()[0].generation == 2


def test_a_stranger_gets_no_replica_of_a_private_model(engines):
    with served(world(engines, keys=[key("sk-serai-other", "tenant-m")])) as gateway:
        with gateway.client("sk-serai-other") as stranger:
            assert stranger.post(CHAT, json=chat()).status_code == 404
        assert gateway.ledger == []
