"""Several replicas of one model: which one gets a request, and who steps in when it dies before the first byte."""

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from gateway.routing import model_lookup, replica_choice
from gateway.routing.snapshot import InstanceEntry
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

FOUR = [instance(f"unix:///{number}", number) for number in range(4)]
SYSTEM = {"role": "system", "content": "You are brief. " * 400}


def conversation(first: str, *more: str) -> dict:
    turns = [{"role": "user" if number % 2 else "assistant", "content": text} for number, text in enumerate(more)]
    return {"cache_salt": "acme", "messages": [SYSTEM, {"role": "user", "content": first}, *turns]}


def favourite(payload: dict, entries=FOUR, inflight=()) -> InstanceEntry:
    return replica_choice.pick_replica(entries, dict(inflight), replica_choice.prefix_digest(payload, MODEL.id))


# --- affinity


def test_the_turns_of_a_conversation_go_to_one_replica():
    begun = favourite(conversation("Where is Paris?"))
    assert favourite(conversation("Where is Paris?", "In France.", "And Rome?")) == begun
    assert favourite(conversation("Where is Paris?", "In Texas.", "No!")) == begun


def test_conversations_spread_over_all_replicas_behind_one_system_prompt():
    chosen = Counter(favourite(conversation(f"Question {number}")).id for number in range(400))
    assert len(chosen) == 4
    assert min(chosen.values()) > 60


def test_every_process_comes_to_the_same_replica_and_one_that_goes_moves_only_its_own_share():
    before = {number: favourite(conversation(f"Question {number}")) for number in range(100)}
    after = {number: favourite(conversation(f"Question {number}"), FOUR[:3]) for number in range(100)}
    assert all(after[number] == before[number] for number in before if before[number] != FOUR[3])
    assert [favourite(conversation(f"Question {number}"), FOUR[::-1]) for number in range(100)] == list(before.values())


def test_tenants_and_models_have_favourites_of_their_own():
    asked = [{**conversation("Hello"), "cache_salt": f"tenant-{number}"} for number in range(50)]
    assert len({favourite(payload).id for payload in asked}) == 4
    prefixes = {replica_choice.prefix_digest(conversation("Hello"), f"model-{number}") for number in range(3)}
    assert len(prefixes) == 3


def test_a_much_used_beginning_spreads_instead_of_making_a_hot_spot():
    load: Counter[str] = Counter()
    for _request in range(200):
        load[favourite(conversation("The same for all"), inflight=load).id] += 1
    assert max(load.values()) <= 50 * replica_choice.MAX_LOAD_RATIO + replica_choice.EXTRA_LOAD + 1
    assert len(load) == 4


@pytest.mark.parametrize(
    "payload",
    [
        {"prompt": "Once upon a time"}, {"prompt": ["Once", "upon"]}, {"prompt": [1, 2, 3]}, {"prompt": [[1, 2], [3]]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "What is this?"}]}]},
        {"input": "Hello", "instructions": "Be brief"}, {"input": [{"role": "user", "content": "Hello"}]},
        {"messages": [{"role": "user", "content": "\ud800"}]},
    ],
)  # fmt: skip
def test_every_kind_of_prompt_has_a_beginning(payload):
    salted = {**payload, "cache_salt": "acme"}
    assert replica_choice.prefix_digest(salted, MODEL.id)
    assert replica_choice.prefix_digest(salted, MODEL.id) != replica_choice.prefix_digest(
        conversation("Other"), MODEL.id
    )


@pytest.mark.parametrize(
    "payload",
    [{"input": ["one", "two"]}, {"cache_salt": "acme"}, {"cache_salt": "acme", "messages": [{"role": "user"}]}],
)
def test_what_no_cache_helps_goes_to_whoever_has_least_to_do(payload):
    assert favourite(payload, inflight={"instance-0": 1, "instance-1": 2, "instance-3": 1}) == FOUR[2]


# --- trust


def test_a_replica_that_failed_somebody_comes_last_and_is_not_lost():
    world = snapshot(*FOUR[:2])
    failed = {("instance-0", 1)}
    assert model_lookup.choose_replica(MODEL, world, {"instance-1": 50}, recently_failed=failed) == FOUR[1]
    assert model_lookup.choose_replica(MODEL, snapshot(FOUR[0]), {}, recently_failed=failed) == FOUR[0]
    again = replace(FOUR[0], generation=2)
    assert (
        model_lookup.choose_replica(MODEL, snapshot(again, FOUR[1]), {"instance-1": 1}, recently_failed=failed) == again
    )


def test_an_unhealthy_one_comes_after_a_doubted_one():
    world = snapshot(replace(FOUR[0], healthy=False), FOUR[1])
    assert model_lookup.choose_replica(MODEL, world, {}, recently_failed={("instance-1", 1)}) == FOUR[1]


def test_the_beginning_is_not_looked_at_where_there_is_no_choice():
    def explode():
        raise AssertionError

    assert model_lookup.choose_replica(MODEL, snapshot(FOUR[0]), {}, prefix=explode) == FOUR[0]
    assert model_lookup.choose_replica(MODEL, snapshot(), {}, prefix=explode) is None


# --- over engines


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
        assert set(gateway.gateway.traffic.recently_failed()) <= {("instance-0", 1)}


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
        assert gateway.gateway.traffic.instances.busy() == {}


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
