"""Which replica gets a request: the least busy healthy one, or the one that has seen the prompt's beginning."""

from collections import Counter
from dataclasses import replace

import pytest

from gateway.routing import replica_choice
from gateway.routing.snapshot import InstanceEntry
from tests.support.gateway_server import MODEL, instance, snapshot

FOUR = [instance(f"unix:///{number}", number) for number in range(4)]
SYSTEM = {"role": "system", "content": "You are brief. " * 400}


def conversation(first: str, *more: str) -> dict:
    turns = [{"role": "user" if number % 2 else "assistant", "content": text} for number, text in enumerate(more)]
    return {"cache_salt": "acme", "messages": [SYSTEM, {"role": "user", "content": first}, *turns]}


def favourite(payload: dict, entries=FOUR, inflight=()) -> InstanceEntry:
    return replica_choice.pick_replica(entries, dict(inflight), replica_choice.prefix_digest(payload, MODEL.id))


def test_the_least_busy_healthy_replica_answers():
    one, two = instance("unix:///1", 1), instance("unix:///2", 2)
    world = snapshot(one, two)
    assert replica_choice.choose_replica(MODEL, world, {one.id: 2, two.id: 1}) == two
    assert replica_choice.choose_replica(MODEL, world, {two.id: 1}) == one
    assert replica_choice.choose_replica(MODEL, snapshot(replace(one, healthy=False), two), {two.id: 9}) == two
    assert replica_choice.choose_replica(MODEL, snapshot(replace(one, healthy=False)), {}).id == one.id
    assert replica_choice.choose_replica(MODEL, world, {}, exclude={(one.id, 1)}) == two
    assert replica_choice.choose_replica(MODEL, world, {}, exclude={(one.id, 1), (two.id, 1)}) is None


@pytest.mark.parametrize("change", [{"state": "draining"}, {"state": "starting"}, {"wanted": False}, {"endpoint": ""}])
def test_what_is_not_ready_or_not_wanted_gets_no_requests(change):
    world = snapshot(replace(instance("unix:///1"), **change))
    assert replica_choice.choose_replica(MODEL, world, {}) is None
    assert world.routable() == []


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
    assert replica_choice.choose_replica(MODEL, world, {"instance-1": 50}, recently_failed=failed) == FOUR[1]
    assert replica_choice.choose_replica(MODEL, snapshot(FOUR[0]), {}, recently_failed=failed) == FOUR[0]
    again = replace(FOUR[0], generation=2)
    assert (
        replica_choice.choose_replica(MODEL, snapshot(again, FOUR[1]), {"instance-1": 1}, recently_failed=failed)
        == again
    )


def test_an_unhealthy_one_comes_after_a_doubted_one():
    world = snapshot(replace(FOUR[0], healthy=False), FOUR[1])
    assert replica_choice.choose_replica(MODEL, world, {}, recently_failed={("instance-1", 1)}) == FOUR[1]


def test_the_beginning_is_not_looked_at_where_there_is_no_choice():
    def explode():
        raise AssertionError

    assert replica_choice.choose_replica(MODEL, snapshot(FOUR[0]), {}, prefix=explode) == FOUR[0]
    assert replica_choice.choose_replica(MODEL, snapshot(), {}, prefix=explode) is None
