"""What an agent has engines load: which versions, which make room, and what it writes of an engine's answers."""

import os
import uuid
from datetime import timedelta
from pathlib import Path

import pytest
from django.utils import timezone

from inference.instances import gateway_reports
from inference.instances.gateway_reports import AdapterUse, GatewayReports
from inference.models import Desired, GatewayHeartbeat, Instance, InstanceState
from models_app.adapters import files, services
from models_app.models import Model
from node_agent import folders
from node_agent.adapter_loading import AdapterReconciler, WantedAdapter, version_to_load, versions_to_unload
from tests.support import adapter_files, instance_rows
from tests.support.gateway_server import EngineProcess
from tests.support.waiting import eventually

LOADED, LEAVING, REFUSED = ({"state": state} for state in ("loaded", "leaving", "refused"))


def wanted(*ids: str) -> list[WantedAdapter]:
    """Those whose name begins with a t are on trial."""
    return [WantedAdapter(version, Path("/"), published=not version.startswith("t")) for version in ids]


# --- which


def test_what_is_waited_for_is_loaded_before_what_is_published_and_that_before_trials():
    missing = wanted("t1", "a", "b")
    assert version_to_load({}, missing, 2, AdapterUse()).id == "a"
    assert version_to_load({}, missing, 2, AdapterUse(waiting={"b"})).id == "b"
    assert version_to_load({"a": LOADED, "b": LOADED}, missing, 3, AdapterUse()).id == "t1"


def test_nothing_is_loaded_without_a_slot_nor_what_the_engine_refused():
    assert version_to_load({"a": LOADED, "b": LEAVING}, wanted("a", "c"), 2, AdapterUse(waiting={"c"})) is None
    assert version_to_load({"a": REFUSED}, wanted("a"), 2, AdapterUse(waiting={"a"})) is None
    assert version_to_load({"a": REFUSED, "b": LOADED}, wanted("a", "b", "c"), 2, AdapterUse()).id == "c"


def test_what_is_no_longer_wanted_is_let_go_of():
    assert versions_to_unload({"a": LOADED, "b": LOADED, "c": LEAVING}, wanted("b"), 4, AdapterUse()) == ["a"]


def test_the_least_recently_used_makes_room_for_what_is_waited_for():
    full = {"a": LOADED, "b": LOADED, "c": LOADED}
    use = AdapterUse(idle={"a": 5, "b": 60, "c": 7}, waiting={"d"})
    assert versions_to_unload(full, wanted("a", "b", "c", "d"), 3, use) == ["b"]
    never_used = AdapterUse(idle={"b": 60, "c": 7}, waiting={"d"})
    assert versions_to_unload(full, wanted("a", "b", "c", "d"), 3, never_used) == ["a"]
    assert versions_to_unload(full, wanted("a", "b", "c", "d"), 3, AdapterUse()) == []


def test_nothing_in_flight_or_waited_for_makes_room():
    use = AdapterUse(busy={"a"}, waiting={"b", "c"})
    assert versions_to_unload({"a": LOADED, "b": LOADED}, wanted("a", "b", "c"), 2, use) == []


def test_no_more_is_let_go_of_than_is_needed():
    known = {"a": LOADED, "b": LOADED, "c": LEAVING}
    assert versions_to_unload(known, wanted("a", "b", "c", "d"), 3, AdapterUse(waiting={"d"})) == []
    gone = {"a": LOADED, "b": LOADED, "c": LOADED}
    assert versions_to_unload(gone, wanted("a", "b", "d"), 3, AdapterUse(waiting={"d"})) == ["c"]


# --- by whom it was let go


def beat(seconds: float = 1, **adapters_) -> GatewayHeartbeat:
    """A word so many seconds after the moment in question."""
    return GatewayHeartbeat(id=uuid.uuid4(), beat_at=NOW + timedelta(seconds=seconds), adapters=adapters_)


NOW = timezone.now()


def let_go(*beats: GatewayHeartbeat, silent=()) -> bool:
    return GatewayReports(list(beats), list(silent), {}).is_adapter_drained("i", "v", NOW)


def test_a_version_is_let_go_of_when_every_gateway_has_looked_since():
    assert let_go()
    assert let_go(beat(routes={"i": ["w"]}, inflight={"i": {"w": 1}, "j": {"v": 1}}))
    assert not let_go(beat(-1))
    assert not let_go(beat(), beat(routes={"i": ["v"]}))
    assert not let_go(beat(), beat(inflight={"i": {"v": 1}}))
    assert not let_go(beat(), silent=[beat(-1)])


def test_use_is_what_all_gateways_say_together():
    beats = [beat(idle={"i": {"v": 9, "w": 3}}, waiting={"x": 1}), beat(idle={"i": {"v": 4}}, inflight={"i": {"u": 2}})]
    use = GatewayReports(beats, [], {}).adapter_use("i")
    assert (use.busy, use.idle, use.waiting) == ({"u"}, {"v": 4, "w": 3}, {"x"})


# --- told to an engine


@pytest.fixture
def base(transactional_db, tenant, settings, tmp_path) -> Model:
    settings.DATA_DIR = tmp_path
    return Model.objects.create(tenant=tenant, name="demo", config={"enable_lora": True})


@pytest.fixture
def instance(base) -> Instance:
    """Its engine is a fake one on the socket where the agent looks for it."""
    made = instance_rows.instance(base, InstanceState.READY, adapter_slots=4, adapter_rank=64)
    folders.folder_of(made.pk).mkdir(mode=0o700, parents=True)
    engine = EngineProcess(folders.folder_of(made.pk))
    engine.socket.rename(folders.socket_of(made.pk))
    engine.socket = folders.socket_of(made.pk)
    made.engine = engine
    yield made
    engine.kill()


@pytest.fixture
def agent():
    made = AdapterReconciler(on_change=lambda: None)
    yield made
    made.close()


@pytest.fixture
def version(base, tmp_path):
    """version(rank=…) is one more version of an adapter of the base, published."""

    def make(name: str = "facts", publish: bool = True, **options):
        source = adapter_files.write_folder(tmp_path / uuid.uuid4().hex / "adapter", **options)
        made = adapter_files.save_version(base, name, source=source)
        if publish:
            made.adapter.current = made
            made.adapter.save()
            made.published_at = timezone.now()
            made.save()
        return made

    return make


def listed(instance) -> set[str]:
    return {card["id"] for card in instance.engine.get("/v1/models").json()["data"]} - {"demo"}


def look(agent, instance, *beats: GatewayHeartbeat) -> dict:
    """What is written after one look at the row and the engine."""
    instance.refresh_from_db()
    agent.reconcile([instance], GatewayReports(list(beats), [], {}), instance.node.fence)
    instance.refresh_from_db()
    return {version: word["state"] for version, word in instance.adapters.items()}


def becomes(agent, instance, expected: dict, *beats: GatewayHeartbeat) -> None:
    eventually(lambda: look(agent, instance, *beats) == expected)


def test_published_versions_and_trials_are_loaded_and_written_down(agent, instance, version):
    first, trial = version(), version("tone", publish=False)
    becomes(agent, instance, {first.pk: "loaded", trial.pk: "loaded"})
    assert listed(instance) == {first.pk, trial.pk}


def test_a_new_version_takes_the_place_of_the_old_once_gateways_have_let_go(agent, instance, version):
    old = version()
    becomes(agent, instance, {old.pk: "loaded"})
    new = version()
    stale = GatewayHeartbeat(id=uuid.uuid4(), beat_at=timezone.now() - timedelta(seconds=9), adapters={})
    becomes(agent, instance, {old.pk: "leaving", new.pk: "loaded"}, stale)
    assert listed(instance) == {old.pk, new.pk}  # requests may be in flight still
    becomes(agent, instance, {new.pk: "loaded"})
    assert listed(instance) == {new.pk}


def test_who_waits_for_a_version_gets_it_though_it_was_rolled_back_meanwhile(agent, instance, version):
    rolled_back, current = version(), version()
    waiting = GatewayHeartbeat(id=uuid.uuid4(), beat_at=timezone.now(), adapters={"waiting": {rolled_back.pk: 3}})
    becomes(agent, instance, {rolled_back.pk: "loaded", current.pk: "loaded"}, waiting)
    becomes(agent, instance, {current.pk: "loaded"})


def test_what_an_engine_refuses_is_written_with_its_word_but_not_where_files_lie(agent, instance, version, tmp_path):
    broken, good = version("broken", refuse="size mismatch"), version("good")
    becomes(agent, instance, {broken.pk: "refused", good.pk: "loaded"})
    reason = instance.adapters[broken.pk]["reason"]
    assert "size mismatch" in reason
    assert str(tmp_path) not in reason
    assert services.model_runtime.get_runtime().adapters_loaded([broken.pk]) == {
        broken.pk: [{"state": "refused", "reason": reason}]
    }  # fmt: skip


def test_an_adapter_that_an_agent_had_loaded_before_it_died_counts_as_loaded(agent, instance, version):
    made = version()
    instance.engine.load(made.pk, files.folder_of(made))
    becomes(agent, instance, {made.pk: "loaded"})


def test_an_engine_that_does_not_answer_is_asked_again(agent, instance, version):
    made, away = version(), folders.folder_of(instance.pk) / "away"
    os.rename(folders.socket_of(instance.pk), away)
    assert [look(agent, instance) for _look in range(5)] == [{}] * 5
    os.rename(away, folders.socket_of(instance.pk))
    becomes(agent, instance, {made.pk: "loaded"})


def test_the_least_recently_used_makes_room_on_a_full_engine(agent, instance, version):
    Instance.objects.update(adapter_slots=2)
    old, busy = version("old"), version("busy")
    becomes(agent, instance, {old.pk: "loaded", busy.pk: "loaded"})
    new = version("new")
    becomes(agent, instance, {old.pk: "loaded", busy.pk: "loaded"})

    def word() -> GatewayHeartbeat:
        use = {"inflight": {instance.pk: {busy.pk: 1}}, "idle": {instance.pk: {old.pk: 1}}, "waiting": {new.pk: 1}}
        return GatewayHeartbeat(id=uuid.uuid4(), beat_at=timezone.now() + timedelta(seconds=9), adapters=use)

    becomes(agent, instance, {new.pk: "loaded", busy.pk: "loaded"}, word())
    assert listed(instance) == {new.pk, busy.pk}


def test_another_agents_node_and_another_run_are_left_alone(agent, instance, version):
    version()
    for fields in ({"desired": Desired.STOPPED}, {"state": InstanceState.DRAINING}, {"adapter_slots": 0}):
        changed = Instance.objects.get(pk=instance.pk)
        for name, value in fields.items():
            setattr(changed, name, value)
        agent.reconcile([changed], GatewayReports([], [], {}), instance.node.fence)
    Instance.objects.update(adapters={"x": {"state": "loaded"}})
    instance.refresh_from_db()
    agent.reconcile([instance], gateway_reports.GatewayReports([], [], {}), instance.node.fence + 1)
    instance.refresh_from_db()
    assert instance.adapters == {"x": {"state": "loaded"}}
    assert listed(instance) == set()
