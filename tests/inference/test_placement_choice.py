"""Which device an instance goes to and who goes for it: a table of cases, and what holds in every case."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.units import GIB
from engines.base import MemoryEstimate
from inference.placement.choice import choose_placement, evaluate_options
from inference.placement.fit import could_ever_fit
from inference.placement.types import ClusterView, DeviceView, Occupant, PlacementRequest, ResourceOption

NOTHING = MemoryEstimate(0, 0, 0)


def device(number: int = 1, kind: str = "cpu", node: str = "a", **fields) -> DeviceView:
    sizes = {"total": 10 * GIB, "usable": 8 * GIB, "reserved": 0, "index": number - 1}
    return DeviceView(**{"id": number, "kind": kind, "node_id": f"node-{node}", "node_name": node, **sizes, **fields})


def way(gib: float = 2, kind: str = "cpu", **fields) -> ResourceOption:
    return ResourceOption(**{"kind": kind, "count": 1, "share": int(gib * GIB), "estimate": NOTHING, **fields})


def idle(name: str, gib: float = 4, on: int = 1, **fields) -> Occupant:
    """An instance that may be evicted, with 5 minutes of idleness."""
    options = {"idle": 300.0, "resident": 600.0, "held_bytes": {on: int(gib * GIB)}, **fields}
    return Occupant(instance_id=name, model_id=f"model-{name}", model_name=name, tenant_id="acme", **options)


def ask(*ways: ResourceOption, devices=(), holders=(), standing=False, **fields):
    """A decision. What holders hold is added to what is reserved on their devices."""
    held = {each.id: sum(holder.held_bytes.get(each.id, 0) for holder in holders) for each in devices}
    seen = tuple(replace(each, reserved=each.reserved + held[each.id]) for each in devices)
    request = PlacementRequest("model-new", ways or (way(),), is_retry=standing)
    return choose_placement(request, ClusterView(seen, tuple(holders), **fields))


def taken(decision) -> list[int]:
    return [each.id for each in decision.devices]


def gone(decision) -> set[str]:
    return {victim.instance_id for victim in decision.victims}


def reasons(decision) -> list[str]:
    return [candidate.why for candidate in decision.trace]


# --- without anybody in the way


def test_the_emptiest_device_is_taken_and_of_equal_ones_the_first_by_name():
    assert taken(ask(devices=[device(1, reserved=GIB), device(2, node="b")])) == [2]
    assert taken(ask(devices=[device(1, node="b"), device(2, node="a")])) == [2]
    assert taken(ask(devices=[device(1, "cuda"), device(2, "cuda", reserved=GIB)])) == []
    assert taken(ask(way(kind="cuda"), devices=[device(1, "cuda", reserved=GIB), device(2, "cuda")])) == [2]


def test_ways_are_tried_in_their_order():
    devices = [device(1), device(2, "cuda")]
    small, big = way(1, "cuda", profile="small"), way(20, "cuda", profile="big")
    assert ask(big, small, way(), devices=devices).option.profile == "small"
    decision = ask(big, way(profile="slow"), devices=devices)
    assert (decision.option.profile, taken(decision)) == ("slow", [1])
    assert [(each.profile, each.why, each.taken) for each in decision.trace] == [
        ("big", "too_small", False), ("slow", "", True),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"stale": True}, "silent"),
        ({"node_problem": "No engine."}, "engine"),
        ({"suspect": "Memory did not come back."}, "suspect"),
        ({"cores": 2}, "cores"),
        ({"node": "b"}, "other_node"),
        ({"usable": GIB}, "too_small"),
        ({"foreign": 9 * GIB}, "too_small"),
        ({"reserved": 7 * GIB}, "no_room"),
    ],
)
def test_a_device_is_refused_with_its_reason(fields, why):
    decision = ask(way(cores=4, node="a"), devices=[device(**{"cores": 4, **fields})])
    assert (decision.placed, reasons(decision)) == (False, [why])


def test_foreign_memory_counts_beyond_the_share_that_is_kept_back_for_it():
    assert device(foreign=2 * GIB).free == 8 * GIB
    assert device(foreign=5 * GIB).free == 5 * GIB


def test_several_gpus_are_taken_on_one_node_with_main_memory_besides():
    gpus = [device(1, "cuda"), device(2, "cuda", "b"), device(3, "cuda", "b"), device(4, node="b")]
    pair = way(6, "cuda", count=2, main_memory=3 * GIB)
    decision = ask(pair, devices=gpus)
    assert taken(decision) == [2, 3]
    assert decision.claims == {2: 6 * GIB, 3: 6 * GIB, 4: 3 * GIB}
    poor = ask(pair, devices=[*gpus[:3], device(4, node="b", reserved=6 * GIB)])
    assert (poor.placed, reasons(poor)) == (False, ["main_memory"] * 3)
    assert reasons(ask(way(6, "cuda", count=3), devices=gpus)) == ["too_few"] * 3


def test_without_devices_nothing_is_placed_and_nothing_is_waited_for():
    decision = ask(way(kind="cuda"), devices=[device()])
    assert (decision.placed, decision.waits, decision.trace) == (False, False, ())


# --- eviction


def test_the_lowest_priority_goes_first_then_the_longest_idle():
    holders = [idle("low", priority=1), idle("high", priority=9)]
    assert gone(ask(way(3), devices=[device()], holders=holders)) == {"low"}
    holders = [idle("short", idle=70.0), idle("long", idle=900.0)]
    assert gone(ask(way(3), devices=[device()], holders=holders)) == {"long"}


def test_nobody_goes_in_vain():
    assert gone(ask(way(2), devices=[device()], holders=[idle("one")])) == set()
    holders = [idle("small", 1, idle=900.0), idle("big", 7)]
    assert gone(ask(way(6), devices=[device()], holders=holders)) == {"big"}
    assert gone(ask(way(8), devices=[device()], holders=holders)) == {"small", "big"}
    assert gone(ask(way(8.1), devices=[device()], holders=holders)) == set()


def test_the_device_whose_victims_cost_least_is_taken():
    devices = [device(1, "cuda"), device(2, "cuda")]
    holders = [idle("dear", 8, on=1, priority=8), idle("cheap", 4, on=2), idle("cheap too", 4, on=2)]
    decision = ask(way(8, "cuda"), devices=devices, holders=holders)
    assert (taken(decision), gone(decision)) == ([2], {"cheap", "cheap too"})


def test_a_better_way_is_worth_an_eviction():
    decision = ask(way(8, "cuda"), way(8), devices=[device(1, "cuda"), device(2)], holders=[idle("one")])
    assert (taken(decision), gone(decision)) == ([1], {"one"})


@pytest.mark.parametrize(
    ("fields", "why", "waits"),
    [
        ({"pinned": True}, "pinned", False),
        ({"idle": None}, "busy", True),
        ({"has_waiters": True}, "awaited", True),
        ({"resident": None, "idle": None}, "starting", True),
        ({"resident": 59.0, "idle": 59.0}, "young", True),
        ({"model_id": "model-new"}, "sibling", False),
    ],
)
def test_who_is_never_evicted_and_whether_waiting_helps(fields, why, waits):
    holder = replace(idle("one", 8), **fields)
    decision = ask(way(2), devices=[device()], holders=[holder])
    assert (decision.placed, decision.waits, reasons(decision)) == (False, waits, ["no_room"])
    assert [(verdict.evicted, verdict.why) for verdict in decision.verdicts] == [(False, why)]
    assert decision.wanted == (frozenset({1}) if waits else frozenset())


def test_who_is_going_anyway_is_promised_away_first():
    holders = [idle("going", priority=9, stopping=True, idle=None, resident=None), idle("idle", priority=1)]
    assert gone(ask(way(4), devices=[device()], holders=holders)) == {"going"}


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({}, ""), ({"priority": 5, "resident": 60.0, "idle": 60.0}, ""),
        ({"replicated": True}, "scaled"), ({"priority": 6}, "higher"), ({"idle": 59.0}, "used"),
        ({"pinned": True}, "pinned"), ({"idle": None}, "busy"), ({"resident": 59.0}, "young"),
        ({"replicated": True, "stopping": True}, ""),
    ],
)  # fmt: skip
def test_for_a_wish_that_stands_only_those_go_who_are_not_missed(fields, why):
    decision = ask(devices=[device()], holders=[idle("old", 8, **fields)], standing=True)
    assert gone(decision) == (set() if why else {"old"})
    assert [verdict.why for verdict in decision.verdicts] == [why]


def test_a_wish_that_stands_takes_nothing_from_who_was_used_later_than_its_own_model():
    def taken_from(own: float | None) -> set[str]:
        replica = replace(idle("own", 2, idle=own), model_id="model-new")
        return gone(ask(devices=[device()], holders=[replica, idle("other", 6)], standing=True))

    assert [taken_from(own) for own in (None, 200.0, 300.0, 301.0)] == [{"other"}, {"other"}, {"other"}, set()]


def test_nobody_is_evicted_past_one_who_has_waited_longer():
    decision = ask(way(8), devices=[device()], holders=[idle("one")], awaited=frozenset({1}))
    assert (decision.placed, decision.waits) == (False, True)
    assert decision.verdicts[0].why == "ahead"
    assert taken(ask(way(4), devices=[device()], holders=[idle("one")], awaited=frozenset({1}))) == [1]


def test_the_limit_of_instances_evicts_like_a_lack_of_memory():
    holders = [idle("one", 1), idle("two", 1, on=2)]
    devices = [device(1), device(2, node="b")]
    assert gone(ask(way(1), devices=devices, holders=holders, slots=0)) == {"one"}
    assert gone(ask(way(1), devices=devices, holders=holders, slots=-1)) == {"one", "two"}
    full = ask(way(1), devices=devices, holders=[replace(each, pinned=True) for each in holders], slots=0)
    assert (full.placed, reasons(full)) == (False, ["limit", "limit"])
    going = ask(way(1), devices=devices, holders=[replace(holders[0], stopping=True)], slots=0)
    assert not going.placed  # whoever is going has given his place back already


def test_an_instance_on_two_gpus_frees_both():
    pair = idle("pair", held_bytes={1: 8 * GIB, 2: 8 * GIB})
    decision = ask(way(5, "cuda", count=2), devices=[device(1, "cuda"), device(2, "cuda")], holders=[pair])
    assert (taken(decision), gone(decision)) == ([1, 2], {"pair"})


# --- what could ever be, and the word on everything


def test_what_no_device_could_ever_hold_is_known():
    assert could_ever_fit(way(8), [device(reserved=8 * GIB, suspect="x")])
    assert not could_ever_fit(way(8.1), [device()])
    assert not could_ever_fit(way(1, "cuda"), [device()])
    assert not could_ever_fit(way(1, cores=8), [device(cores=4)])
    assert not could_ever_fit(way(1, "cuda", count=2), [device(1, "cuda"), device(2, "cuda", "b")])
    assert not could_ever_fit(way(1, "cuda", main_memory=9 * GIB), [device(1, "cuda"), device(2)])


def test_a_survey_has_a_word_on_every_device_for_every_way():
    devices = (device(1, "cuda"), device(2, reserved=8 * GIB), device(3, node="b"))
    found = evaluate_options(PlacementRequest("model-new", (way(kind="cuda"), way())), ClusterView(devices))
    assert [(each.node, each.device, each.why) for each in found] == [
        ("a", "cuda:0", ""), ("a", "cpu:1", "no_room"), ("b", "cpu:2", ""),
    ]  # fmt: skip


# --- in every case

SIZES = st.integers(1, 8)
DEVICES = st.lists(
    st.builds(
        dict, kind=st.sampled_from(["cpu", "cuda"]), node=st.sampled_from("abc"), stale=st.booleans(),
        suspect=st.sampled_from(["", "", "", "x"]), foreign=st.integers(0, 9).map(lambda size: size * GIB),
    ),
    min_size=1, max_size=5,
)  # fmt: skip
HOLDERS = st.lists(
    st.builds(
        dict, gib=SIZES, on=st.integers(1, 5), priority=st.integers(1, 10), pinned=st.booleans(),
        has_waiters=st.booleans(),
        idle=st.none() | st.floats(0, 1000), resident=st.none() | st.floats(0, 1000), stopping=st.booleans(),
    ),
    max_size=8,
)  # fmt: skip
WAYS = st.lists(
    st.builds(
        dict, gib=SIZES, kind=st.sampled_from(["cpu", "cuda"]), count=st.integers(1, 3),
        main_memory=st.integers(0, 4).map(lambda size: size * GIB),
    ),
    min_size=1, max_size=3,
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(DEVICES, HOLDERS, WAYS, st.integers(-2, 3))
def test_what_holds_in_every_case(devices, holders, ways, slots):
    views = [device(number, **fields) for number, fields in enumerate(devices, 1)]
    people = [idle(f"h{number}", **fields) for number, fields in enumerate(holders)]
    wishes = [way(**{**fields, "count": 1 if fields["kind"] == "cpu" else fields["count"]}) for fields in ways]
    decision = ask(*wishes, devices=views, holders=people, slots=slots)
    assert decision == ask(*wishes, devices=views, holders=people, slots=slots)
    if not decision.placed:
        assert not decision.claims and not decision.victims and not any(each.taken for each in decision.trace)
        assert all(each.why for each in decision.trace)
        return
    assert {each.node_id for each in decision.devices} == {decision.devices[0].node_id}
    assert len(decision.devices) == decision.option.count == len(set(taken(decision)))
    assert not any(each.stale or each.suspect for each in decision.devices)
    for victim in decision.victims:
        never = victim.pinned or victim.has_waiters or victim.idle is None or victim.resident is None
        assert victim.stopping or not never and victim.resident >= 60
    assert fits(decision, views, people, decision.victims, slots)
    for spared in decision.victims:
        rest = [victim for victim in decision.victims if victim is not spared]
        assert not fits(decision, views, people, rest, slots)


def fits(decision, devices, holders, victims, slots) -> bool:
    """Whether the claims fit into what is left by those who stay."""
    stay = [holder for holder in holders if holder not in victims]
    room = all(
        sum(holder.held_bytes.get(each.id, 0) for holder in stay) + decision.claims.get(each.id, 0)
        <= max(each.capacity, sum(holder.held_bytes.get(each.id, 0) for holder in stay))
        for each in devices
    )
    return room and slots + sum(not victim.stopping for victim in victims) >= 1
