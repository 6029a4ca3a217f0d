"""The ledger of device memory under everything that can happen to it, on a real Postgres."""

import random
import threading

import pytest
from django.db import connection
from django.db.models import Sum
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.units import GIB
from inference import memory_ledger
from inference.memory_ledger import NoRoom
from inference.models import Desired, Device, Instance, InstanceState, Node, Reservation, Use
from models_app.models import Model
from tests.support import instance_rows


@pytest.fixture
def devices(db) -> list[Device]:
    """Two devices of one machine, 8 GiB each to be had."""
    node = instance_rows.node()
    second = Device.objects.create(node=node, kind="cuda", name="G", total_bytes=16 * GIB, usable_bytes=8 * GIB)
    return [node.devices.get(kind="cpu"), second]


def instance(tenant, number: int = 0, state: InstanceState = InstanceState.READY) -> Instance:
    model = Model.objects.create(tenant=tenant, name=f"m{number}-{Model.objects.count()}")
    return instance_rows.instance(model, state)


def books_are_right() -> None:
    for device in Device.objects.all():
        counted = device.reservations.filter(leaving=False).aggregate(sum=Sum("bytes"))["sum"] or 0
        assert device.reserved_bytes == counted
        assert 0 <= device.reserved_bytes <= device.usable_bytes


def test_a_claim_is_taken_whole_or_not_at_all(tenant, devices):
    cpu, gpu = devices
    one, two = instance(tenant), instance(tenant)
    memory_ledger.claim(one.pk, {cpu.pk: 5 * GIB})
    with pytest.raises(NoRoom):
        memory_ledger.claim(two.pk, {gpu.pk: GIB, cpu.pk: 4 * GIB})
    assert not two.reservations.exists()
    books_are_right()


def test_memory_that_others_hold_is_not_promised(tenant, devices):
    cpu, _gpu = devices
    Device.objects.filter(pk=cpu.pk).update(foreign_bytes=10 * GIB)
    with pytest.raises(NoRoom):
        memory_ledger.claim(instance(tenant).pk, {cpu.pk: 7 * GIB})
    memory_ledger.claim(instance(tenant).pk, {cpu.pk: 6 * GIB})


def test_what_a_victim_holds_is_promised_at_once_and_launched_on_when_it_is_gone(tenant, devices):
    cpu, _gpu = devices
    old, new = instance(tenant), instance(tenant, state=InstanceState.PENDING)
    memory_ledger.claim(old.pk, {cpu.pk: 6 * GIB})
    memory_ledger.record_use(old.pk, Use.IN_USE)
    assert [row.pk for row in memory_ledger.evict([old.pk], stop_timeout=1800)] == [old.pk]
    memory_ledger.claim(new.pk, {cpu.pk: 5 * GIB})
    old.refresh_from_db()
    assert (old.desired, old.stop_reason, old.stop_timeout) == ("stopped", "evicted", 1800)
    books_are_right()
    assert not memory_ledger.may_start(new.pk)
    Instance.objects.filter(pk=old.pk).update(state=InstanceState.STOPPED)
    memory_ledger.release(old.pk)
    assert memory_ledger.may_start(new.pk)
    books_are_right()


def test_who_needs_no_more_than_is_left_need_not_wait_for_one_that_leaves(tenant, devices):
    cpu, _gpu = devices
    old, new = instance(tenant), instance(tenant, state=InstanceState.PENDING)
    memory_ledger.claim(old.pk, {cpu.pk: 2 * GIB})
    memory_ledger.record_use(old.pk, Use.IN_USE)
    memory_ledger.evict([old.pk], stop_timeout=60)
    memory_ledger.claim(new.pk, {cpu.pk: 6 * GIB})
    assert memory_ledger.may_start(new.pk)


def test_one_start_per_device_at_a_time_holds_for_every_owner(tenant, devices):
    cpu, gpu = devices
    one = instance(tenant, state=InstanceState.PENDING)
    for owner, device in (("job-1", cpu), (one.pk, cpu), ("job-2", gpu)):
        memory_ledger.claim(owner, {device.pk: GIB})
    memory_ledger.record_use("job-1", Use.LOADING)
    assert (memory_ledger.may_start(one.pk), memory_ledger.may_start("job-2")) == (False, True)
    memory_ledger.record_use("job-1", Use.IN_USE)
    assert memory_ledger.may_start(one.pk)
    memory_ledger.release("job-1")
    books_are_right()


@pytest.mark.parametrize(
    "changed",
    [
        {"state": InstanceState.STARTING},
        {"generation": 2},
        {"state": InstanceState.DRAINING},
        {"state": InstanceState.PENDING},
    ],
)
def test_who_is_not_as_it_was_seen_is_not_evicted(tenant, devices, changed):
    one = instance(tenant)
    memory_ledger.claim(one.pk, {devices[0].pk: GIB})
    Instance.objects.filter(pk=one.pk).update(**changed)
    with pytest.raises(NoRoom):
        memory_ledger.evict([one.pk], stop_timeout=60)
    one.refresh_from_db()
    assert (one.desired, one.reservations.get().leaving) == ("running", False)


def test_one_that_leaves_comes_back_only_while_its_memory_is_not_given_away(tenant, devices):
    cpu, _gpu = devices
    old, new = instance(tenant), instance(tenant, state=InstanceState.PENDING)
    memory_ledger.claim(old.pk, {cpu.pk: 6 * GIB})
    memory_ledger.evict([old.pk], stop_timeout=60)
    memory_ledger.claim(new.pk, {cpu.pk: 6 * GIB})
    with pytest.raises(NoRoom):
        memory_ledger.reclaim(old)
    memory_ledger.release(new.pk)
    memory_ledger.reclaim(old)
    old.refresh_from_db()
    assert (old.stop_reason, old.reservations.get().leaving) == ("", False)
    books_are_right()


def test_giving_back_twice_changes_nothing(tenant, devices):
    one = instance(tenant)
    memory_ledger.claim(one.pk, {device.pk: GIB for device in devices})
    memory_ledger.release(one.pk)
    memory_ledger.release(one.pk)
    assert not Reservation.objects.exists()
    books_are_right()


STEPS = st.lists(
    st.tuples(st.sampled_from(["claim", "evict", "reclaim", "release"]), st.integers(0, 5), st.integers(0, 8)),
    max_size=25,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_the_books_are_right_after_every_step(tenant, devices, steps):
    Instance.objects.all().delete()
    Reservation.objects.all().delete()
    Device.objects.update(reserved_bytes=0)
    people = [instance(tenant, number) for number in range(6)]
    for verb, who, size in steps:
        step(verb, people[who], devices[size % 2], size * GIB)
        books_are_right()


def step(verb: str, who: Instance, device: Device, size: int) -> None:
    try:
        if verb == "claim" and not who.reservations.exists():
            memory_ledger.claim(who.pk, {device.pk: size})
        elif verb == "evict":
            memory_ledger.evict([who.pk], stop_timeout=60)
        elif verb == "reclaim":
            memory_ledger.reclaim(who)
            Instance.objects.filter(pk=who.pk).update(desired=Desired.RUNNING)
        elif verb == "release":
            memory_ledger.release(who.pk)
    except NoRoom:
        pass


@pytest.mark.django_db(transaction=True)
def test_threads_that_claim_evict_and_release_at_once_keep_the_books_right(tenant):
    node = instance_rows.node()
    gpus = [
        Device.objects.create(
            node=node, kind="cuda", index=number, name="G", total_bytes=16 * GIB, usable_bytes=8 * GIB
        ).pk
        for number in range(2)
    ]
    everyone = [instance(tenant, number).pk for number in range(6)]
    errors: list[BaseException] = []

    def work(number: int) -> None:
        dice = random.Random(number)
        try:
            for _round in range(25):
                act(dice, everyone[number], Instance.objects.get(pk=dice.choice(everyone)), gpus)
        except BaseException as error:
            errors.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=work, args=[number]) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    books_are_right()
    assert Node.objects.count() == 1


def act(dice: random.Random, own: str, who: Instance, devices: list[int]) -> None:
    """One random step. Who is placed claims once; everything else happens to anybody, as agents and starts do it."""
    try:
        match dice.choice(["claim", "claim", "evict", "reclaim", "release"]):
            case "claim":
                claims = {device: dice.randint(1, 5) * GIB for device in dice.sample(devices, dice.randint(1, 2))}
                placed = Instance.objects.get(pk=own)
                if not placed.reservations.exists():
                    memory_ledger.claim(placed.pk, claims)
            case "evict":
                memory_ledger.evict([who.pk], stop_timeout=60)
            case "reclaim":
                memory_ledger.reclaim(who)
                Instance.objects.filter(pk=who.pk).update(desired=Desired.RUNNING)
            case "release":
                memory_ledger.release(who.pk)
    except NoRoom:
        pass
