"""Several instances of one model over REST: how many there are, what becomes of them, and what is told of it."""

from datetime import timedelta

import pytest
from django.db import transaction
from django.utils import timezone

from accounts.models import AuditRecord
from core.errors import ModelNotFound
from inference.instances import operations, transitions
from inference.models import Desired, Device, Instance, InstanceState, Node, Task, TaskKind, TaskStatus
from inference.serving import replicas, services
from models_app.models import Model
from tests.support import instance_rows

MODELS = "/api/models"
SMALL = {"model_path": "serai-demo", "n_ctx": 256}


@pytest.fixture
def machine(settings):
    settings.ENGINE_ADAPTERS = ["engines.vllm.VllmEngine"]
    return instance_rows.node(usable=64 * instance_rows.GIB)


@pytest.fixture
def model(tenant) -> Model:
    return Model.objects.create(tenant=tenant, name="twins", config=SMALL, replicas=2)


@pytest.fixture
def started(api, member, model, machine):
    api(member).post(f"{MODELS}/twins/start")
    return model


def observe(instance: Instance, state: InstanceState, **fields) -> None:
    """As the instance's agent would write it."""
    instance.refresh_from_db()
    assert transitions.move(instance, state, fence=instance.node.fence, **fields)


def make_ready(*instances: Instance) -> None:
    for instance in instances:
        observe(
            instance, InstanceState.READY, running_generation=instance.generation, healthy=True, ready_at=timezone.now()
        )


def room_for(model: Model, count: int) -> None:
    """The device has room for so many instances and no more."""
    device = Device.objects.get()
    size = model.instances.active().first().reservations.get().bytes
    Device.objects.update(usable_bytes=device.reserved_bytes + size * count)


def numbers(model: Model) -> list[int]:
    return sorted(model.instances.wanted().values_list("replica", flat=True))


def shown(client, ref: str = "twins") -> dict:
    return client.get(f"{MODELS}/{ref}").json()


def task(client, reply) -> dict:
    return client.get(f"/api/tasks/{reply.json()['task_id']}").json()


# --- start and stop


def test_a_start_places_all_replicas_and_is_done_when_all_are_ready(api, member, model, machine):
    client = api(member)
    reply = client.post(f"{MODELS}/twins/start")
    assert reply.status_code == 200
    assert "warnings" not in reply.json()
    one, two = model.instances.order_by("replica")
    assert numbers(model) == [0, 1]
    make_ready(one)
    assert (shown(client)["status"], shown(client)["replicas"]) == ("running", {"wanted": 2, "ready": 1})
    assert task(client, reply)["status"] == "running"
    make_ready(two)
    assert shown(client)["replicas"] == {"wanted": 2, "ready": 2}
    assert task(client, reply)["status"] == "succeeded"


def test_what_fits_runs_and_the_reply_says_what_is_missing(api, member, operator, model, machine, tenant):
    other = Model.objects.create(tenant=tenant, name="alone", config=SMALL)
    client = api(member)
    client.post(f"{MODELS}/alone/start")
    room_for(other, 1)
    reply = client.post(f"{MODELS}/twins/start")
    assert reply.status_code == 200
    assert reply.json()["warnings"][0].startswith("1 of 2 replicas have found a place: ")
    assert task(client, reply)["warning"] == reply.json()["warnings"][0]
    assert numbers(model) == [0]
    assert client.get(f"{MODELS}/twins/info").json()["model"]["replicas"] == {"wanted": 2, "ready": 0}


def test_a_model_of_which_nothing_fits_is_refused(api, member, model):
    instance_rows.node(usable=1024)
    reply = api(member).post(f"{MODELS}/twins/start")
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "INSUFFICIENT_RESOURCES")
    assert not Instance.objects.exists()


def test_a_stop_is_done_when_all_are_gone(api, member, started):
    client = api(member)
    one, two = started.instances.order_by("replica")
    make_ready(one, two)
    reply = client.post(f"{MODELS}/twins/stop")
    observe(one, InstanceState.STOPPED)
    assert (shown(client)["status"], task(client, reply)["status"]) == ("running", "running")
    observe(two, InstanceState.STOPPED)
    assert (shown(client)["status"], task(client, reply)["status"]) == ("stopped", "succeeded")


def test_a_start_during_a_stop_brings_the_same_instances_back(api, member, started):
    client = api(member)
    make_ready(*started.instances.all())
    stop = client.post(f"{MODELS}/twins/stop")
    client.post(f"{MODELS}/twins/start")
    assert started.instances.count() == 2
    for instance in started.instances.all():
        assert (instance.desired, instance.generation) == ("running", 2)
        observe(instance, InstanceState.STARTING, running_generation=2)
    assert task(client, stop)["status"] == "succeeded"  # the runs that were to end have ended


def test_memory_that_is_promised_to_another_is_not_taken_back(api, member, started):
    make_ready(*started.instances.all())
    leaving = started.instances.get(replica=0)
    leaving.request_change(desired=Desired.STOPPED)
    leaving.reservations.update(leaving=True)
    api(member).post(f"{MODELS}/twins/start")
    leaving.refresh_from_db()
    assert leaving.desired == Desired.STOPPED
    assert numbers(started) == [1, 2]


def test_a_replica_that_fails_makes_the_start_fail_while_the_other_serves(api, member, started):
    client = api(member)
    one, two = started.instances.order_by("replica")
    make_ready(one)
    observe(two, InstanceState.FAILED, desired=Desired.STOPPED, failure_reason="The rope is short.")
    found = client.get("/api/tasks").json()["items"][0]
    assert (found["status"], found["error"]) == ("failed", "The rope is short.")
    info = client.get(f"{MODELS}/twins/info").json()["model"]
    assert (info["status"], info["failure_reason"]) == ("routing", "The rope is short.")


# --- scaling


def test_a_running_model_takes_another_number_at_once(api, owner, started):
    client = api(owner)
    make_ready(*started.instances.all())
    assert client.patch(f"{MODELS}/twins", {"replicas": 4}).json()["replicas"] == {"wanted": 4, "ready": 2}
    assert numbers(started) == [0, 1, 2, 3]
    assert client.put(f"{MODELS}/twins", {"replicas": {"wanted": 1, "ready": 2}}).status_code == 200
    assert numbers(started) == [0]
    assert set(started.instances.exclude(replica=0).values_list("desired", flat=True)) == {"stopped"}
    client.patch(f"{MODELS}/twins", {"replicas": 2})
    assert numbers(started) == [0, 1]  # the one that was on its way out comes back
    assert started.instances.count() == 4


def test_scaling_down_ends_first_what_does_not_serve_yet(api, owner, started):
    make_ready(started.instances.get(replica=1))
    api(owner).patch(f"{MODELS}/twins", {"replicas": 1})
    assert numbers(started) == [1]


def test_a_stopped_model_is_only_written_down(api, owner, model, machine):
    reply = api(owner).patch(f"{MODELS}/twins", {"replicas": 3})
    assert reply.json()["replicas"] == {"wanted": 3, "ready": 0}
    assert not Instance.objects.exists()


def test_scaling_without_room_warns_and_keeps_what_runs(api, owner, started):
    room_for(started, 1)
    reply = api(owner).patch(f"{MODELS}/twins", {"replicas": 5})
    assert reply.status_code == 200
    assert reply.json()["warnings"][0].startswith("3 of 5 replicas have found a place")
    assert numbers(started) == [0, 1, 2]


@pytest.mark.parametrize("count", [0, -1, 65, "many", None, {"ready": 1}])
def test_a_number_that_makes_no_sense_is_refused(api, owner, started, count):
    """To end a model there is stop."""
    reply = api(owner).patch(f"{MODELS}/twins", {"replicas": count})
    assert reply.status_code == 422
    assert list(reply.json()["error"]["details"]) == ["replicas"]
    assert numbers(started) == [0, 1]


def test_members_and_strangers_scale_nothing(api, member, stranger, started):
    assert api(member).patch(f"{MODELS}/twins", {"replicas": 3}).status_code == 403
    assert api(stranger).patch(f"{MODELS}/{started.pk}", {"replicas": 3}).status_code == 404
    assert numbers(started) == [0, 1]


# --- restart


def test_a_restart_goes_from_one_replica_to_the_next(api, member, started):
    client = api(member)
    one, two = started.instances.order_by("replica")
    make_ready(one, two)
    reply = client.post(f"{MODELS}/twins/restart")
    assert wanted_runs(one, two) == [2, 1]
    observe(one, InstanceState.DRAINING)
    observe(one, InstanceState.PENDING)
    assert wanted_runs(one, two) == [2, 1]
    make_ready(one)
    assert wanted_runs(one, two) == [2, 2]
    assert task(client, reply)["status"] == "running"
    make_ready(two)
    assert task(client, reply)["status"] == "succeeded"


def wanted_runs(*instances: Instance) -> list[int]:
    for instance in instances:
        instance.refresh_from_db()
    return [instance.generation for instance in instances]


def test_a_restart_that_fails_leaves_the_others_alone(api, member, started):
    client = api(member)
    one, two = started.instances.order_by("replica")
    make_ready(one, two)
    reply = client.post(f"{MODELS}/twins/restart")
    observe(one, InstanceState.FAILED, desired=Desired.STOPPED, failure_reason="It did not come back.")
    assert task(client, reply)["error"] == "It did not come back."
    assert wanted_runs(two) == [1]
    assert shown(client)["status"] == "running"


def test_what_does_not_serve_yet_is_restarted_without_waiting():
    serving = Instance(pk="a", state=InstanceState.READY, generation=1, running_generation=1)
    coming = Instance(pk="b", state=InstanceState.STARTING, generation=1, running_generation=1)
    crashed = Instance(pk="c", state=InstanceState.PENDING, generation=1, running_generation=1)
    targets = {"a": 2, "b": 2, "c": 2}
    assert operations.next_restarts([serving, coming, crashed], targets) == [coming, crashed]
    coming.generation = crashed.generation = 2
    assert operations.next_restarts([serving, coming, crashed], targets) == []


# --- kept so


def test_the_keeper_replaces_a_replica_that_failed_but_not_at_once(started):
    one, two = started.instances.order_by("replica")
    make_ready(one)
    observe(two, InstanceState.FAILED, desired=Desired.STOPPED)
    keeper = replicas.ReplicaReconciler()
    keeper.work()
    assert numbers(started) == [0]
    Instance.objects.filter(pk=two.pk).update(state_since=timezone.now() - replicas.FIRST_BACKOFF)
    keeper.work()
    assert numbers(started) == [0, 1]
    assert started.instances.wanted().filter(on_demand=True).count() == 0


def test_the_pause_grows_with_each_failure():
    pauses = [replicas.backoff_after(failures) for failures in (0, 1, 2, 3, 50, 10_000)]
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (timedelta(), replicas.MAX_BACKOFF)


def test_the_keeper_tries_again_where_there_was_no_room(started):
    room_for(started, 0)
    Model.objects.update(replicas=3)
    keeper = replicas.ReplicaReconciler()
    keeper.work()
    assert numbers(started) == [0, 1]
    Device.objects.update(usable_bytes=64 * instance_rows.GIB)
    keeper.work()
    assert numbers(started) == [0, 1]  # not every few seconds
    replicas.ReplicaReconciler().work()
    assert numbers(started) == [0, 1, 2]


def test_the_keeper_ends_what_is_too_much_and_starts_nothing_that_is_stopped(started, tenant):
    make_ready(*started.instances.all())
    Model.objects.create(tenant=tenant, name="still", config=SMALL, replicas=3)
    Model.objects.filter(pk=started.pk).update(replicas=1)  # as the console's form does
    replicas.ReplicaReconciler().work()
    assert numbers(started) == [0]
    assert Instance.objects.count() == 2


@pytest.mark.parametrize("verb", [services.start, services.stop, services.restart, services.scale])
def test_a_model_that_was_deleted_a_moment_ago_is_told_as_missing(model, verb):
    found = Model.objects.get()
    model.delete()
    with pytest.raises(ModelNotFound), transaction.atomic():
        verb(found)


# --- events


def test_one_event_for_each_change_of_the_model_not_of_each_replica(started, monkeypatch):
    told = []
    monkeypatch.setattr(transitions, "publish_on_commit", lambda _t, _e, data, **_more: told.append(data["status"]))
    one, two = started.instances.order_by("replica")
    for instance in (one, two):
        observe(instance, InstanceState.STARTING, running_generation=1)
    make_ready(one, two)
    observe(one, InstanceState.DRAINING)
    observe(two, InstanceState.DRAINING)
    for instance in (one, two):
        observe(instance, InstanceState.STOPPED)
    assert told == ["running", "stopping", "stopped"]


# --- all models


def everything(tenant, machine) -> tuple[Model, Model, Model]:
    fields = {"tenant": tenant, "config": SMALL}
    return (
        Model.objects.create(name="kept", auto_start=True, priority=9, **fields),
        Model.objects.create(name="broken", auto_start=True, tenant=tenant, config={"model_path": "not-there"}),
        Model.objects.create(name="called", **fields),
    )


def test_restart_autostart_answers_as_the_document_shows(api, member, stranger, tenant, machine):
    kept, broken, called = everything(tenant, machine)
    theirs = Model.objects.create(tenant=stranger.default_tenant, name="theirs", auto_start=True, config=SMALL)
    serving = instance_rows.instance(called, InstanceState.READY)
    reply = api(member).post(f"{MODELS}/restart-autostart")
    assert reply.status_code == 200
    answer = reply.json()
    assert list(answer.pop("failed_models")) == ["broken"]
    message = "1 autostart models are restarting."
    assert answer == {"success": False, "message": message, "started_models": ["kept"]}
    assert [each.model for each in Instance.objects.filter(state=InstanceState.PENDING)] == [kept]
    serving.refresh_from_db()
    assert serving.generation == 1
    assert not theirs.instances.exists()
    assert [row.object_id for row in AuditRecord.objects.filter(action="model.restart")] == [kept.pk]
    broken.delete()
    chinese = api(member, **{"Accept-Language": "zh-Hans"}).post(f"{MODELS}/restart-autostart").json()
    assert chinese == {"success": True, "message": "已重启 1 个autostart模型", "started_models": ["kept"]}


def test_stop_all_ends_what_runs_of_the_tenant(api, member, stranger, tenant, machine):
    kept, _broken, called = everything(tenant, machine)
    theirs = Model.objects.create(tenant=stranger.default_tenant, name="theirs", visibility="public")
    instances = [instance_rows.instance(each, InstanceState.READY) for each in (kept, called, theirs)]
    reply = api(member).post(f"{MODELS}/stop-all", {"force": True, "timeout": 5})
    answer = {"success": True, "message": "All models are stopping.", "stopped_models": ["kept", "called"]}
    assert (reply.status_code, reply.json()) == (200, answer)
    for instance in instances:
        instance.refresh_from_db()
    assert [instance.desired for instance in instances] == ["stopped", "stopped", "running"]
    assert (instances[0].force_stop, instances[0].stop_timeout) == (True, 5)
    assert AuditRecord.objects.filter(action="model.stop").count() == 2
    chinese = api(stranger, **{"Accept-Language": "zh-Hans"}).post(f"{MODELS}/stop-all").json()
    assert chinese == {"success": True, "message": "所有模型已关闭", "stopped_models": ["theirs"]}


def test_an_operator_without_a_tenant_means_all_and_with_one_only_that(api, operator, stranger, tenant, machine):
    ours = Model.objects.create(tenant=tenant, name="ours", config=SMALL, auto_start=True)
    theirs = Model.objects.create(tenant=stranger.default_tenant, name="theirs", config=SMALL, auto_start=True)
    one = api(operator, **{"Serai-Tenant": "acme"}).post(f"{MODELS}/restart-autostart").json()
    assert one["started_models"] == ["ours"]
    both = api(operator).post(f"{MODELS}/restart-autostart").json()
    assert set(both["started_models"]) == {"ours", "theirs"}
    assert set(api(operator).post(f"{MODELS}/stop-all").json()["stopped_models"]) == {"ours", "theirs"}
    assert not Instance.objects.wanted().filter(model__in=[ours, theirs]).exists()


@pytest.mark.parametrize("route", ["stop-all", "restart-autostart"])
def test_viewers_may_not(api, viewer, model, route):
    instance = instance_rows.instance(model, InstanceState.READY)
    assert api(viewer).post(f"{MODELS}/{route}").status_code == 403
    instance.refresh_from_db()
    assert (instance.desired, instance.generation) == ("running", 1)


def test_a_key_for_some_models_reaches_no_others(api, key, tenant, machine):
    mine = Model.objects.create(tenant=tenant, name="mine")
    other = Model.objects.create(tenant=tenant, name="other")
    instances = [instance_rows.instance(each, InstanceState.READY) for each in (mine, other)]
    client = api(key(allowed_models=[mine.pk], scopes=["models"]))
    assert client.post(f"{MODELS}/stop-all").json()["stopped_models"] == ["mine"]
    instances[1].refresh_from_db()
    assert instances[1].desired == "running"


@pytest.mark.parametrize("body", [{"timeout": -1}, {"force": "perhaps"}, [1]])
def test_stop_all_refuses_wrong_wishes(api, member, model, body):
    assert api(member).post(f"{MODELS}/stop-all", body).status_code == 422


def test_a_stop_with_nothing_to_stop_is_done(api, member, model):
    reply = api(member).post(f"{MODELS}/twins/stop")
    found = Task.objects.get(pk=reply.json()["task_id"])
    assert (found.kind, found.status, found.targets) == (TaskKind.STOP, TaskStatus.SUCCEEDED, {})
    assert not Node.objects.exists()
