"""Starts that need room, over REST: profiles, estimates, evictions and their explanation, with a stranger beside."""

import uuid
from datetime import timedelta

import pytest
from django.utils import timezone

from accounts import configuration
from accounts.configuration import Configuration
from accounts.models import Tenant
from core.errors import InsufficientResources, NoRoomYet
from core.units import GIB
from engines import registry
from engines.base import MemoryEstimate
from inference import memory_ledger
from inference.models import Device, GatewayHeartbeat, Instance, InstanceState, Node, PlacementRecord
from inference.placement import claim, cluster_view
from inference.placement.types import PlacementRequest, ResourceOption
from inference.serving import replicas, services
from models_app.models import Model
from node_agent import process_tree
from tests.support import instance_rows

MODELS = "/api/models"
LONG_AGO = timedelta(minutes=10)


@pytest.fixture(autouse=True)
def engine(settings):
    settings.ENGINE_ADAPTERS = ["tests.fakes.fake_aware_engine.FakeAwareEngine"]
    registry.engines.cache_clear()
    yield
    registry.engines.cache_clear()


@pytest.fixture
def box():
    return instance_rows.node(usable=4 * GIB)


def made(tenant: Tenant, name: str, gib: int = 3, **fields) -> Model:
    """A model that takes so much main memory."""
    options = {"config": {"model_path": "serai-demo"}, "resource_requirements": {"memory": gib * 1024}, **fields}
    return Model.objects.create(tenant=tenant, name=name, tags=["fake"], **options)


def serving(model: Model, since: timedelta = LONG_AGO, gib: int = 3) -> Instance:
    instance = instance_rows.instance(model, InstanceState.READY, ready_at=timezone.now() - since)
    instance_rows.reserve(instance, gib * GIB)
    return instance


def heard(**fields) -> None:
    GatewayHeartbeat.objects.create(id=uuid.uuid4(), host="box", pid=1, beat_at=timezone.now(), **fields)


def start(client, name: str):
    return client.post(f"{MODELS}/{name}/start")


def code(reply) -> tuple[int, str]:
    return reply.status_code, reply.json()["error"]["code"]


def explained(client, name: str) -> dict:
    reply = client.get(f"{MODELS}/{name}/explain")
    assert reply.status_code == 200, reply.content
    return reply.json()


# --- eviction


def test_an_idle_model_of_any_tenant_goes_for_one_that_is_asked_for(api, member, tenant, stranger, box):
    old = serving(made(stranger.default_tenant, "someone-elses"))
    made(tenant, "mine")
    assert start(api(member), "mine").status_code == 200
    old.refresh_from_db()
    assert (old.desired, old.stop_reason, old.reservations.get().leaving) == ("stopped", "evicted", True)
    device = Device.objects.get()
    assert device.reserved_bytes == Instance.objects.get(model__name="mine").reservations.get().bytes == 3 * GIB
    told = explained(api(stranger), "someone-elses")
    assert told["stop_reason"] == "It made room for another model."
    assert "mine" not in str(told)


def test_the_newcomers_tenant_learns_that_somebody_went_and_not_who(api, member, operator, tenant, stranger, box):
    serving(made(stranger.default_tenant, "someone-elses"))
    made(tenant, "mine")
    start(api(member), "mine")
    (decision,) = explained(api(member), "mine")["decisions"]
    assert decision["outcome"] == "placed"
    assert decision["holders"] == [{"model_id": None, "model_name": None, "evicted": True, "why": None}]
    assert (decision["node"], decision["candidates"][0]["node"]) == (None, None)
    assert "box" not in str(decision) and "someone-elses" not in str(decision)
    (whole,) = explained(api(operator, **{"Serai-Tenant": "acme"}), "mine")["decisions"]
    assert (whole["node"], whole["holders"][0]["model_name"]) == ("box", "someone-elses")


@pytest.mark.parametrize("case", ["pinned", "busy", "awaited", "young", "starting"])
def test_who_may_not_be_evicted_keeps_its_room(api, member, tenant, box, case):
    old = made(tenant, "old", pinned=case == "pinned")
    instance = serving(old, timedelta(seconds=5) if case == "young" else LONG_AGO)
    if case == "starting":
        Instance.objects.update(state=InstanceState.STARTING)
    heard(inflight={instance.pk: 1} if case == "busy" else {}, waiting={old.pk: 1} if case == "awaited" else {})
    made(tenant, "new")
    reply = start(api(member), "new")
    assert code(reply) == (503, "INSUFFICIENT_RESOURCES")
    assert reply.json()["error"]["details"] == {"needed_mib": 3072, "free_mib": 1024}
    assert "3.0 GiB" in reply.json()["message"]
    instance.refresh_from_db()
    assert instance.desired == "running"
    (decision,) = explained(api(member), "new")["decisions"]
    assert (decision["outcome"], len(decision["holders"])) == ("refused", 1)
    assert decision["holders"][0]["why"]


def test_a_request_is_told_to_wait_where_a_person_is_refused(tenant, box):
    serving(made(tenant, "young"), timedelta(seconds=5))
    new = made(tenant, "new")
    for _again in range(3):
        with pytest.raises(NoRoomYet):
            services.start_on_demand(new.pk)
    assert PlacementRecord.objects.get().decision["outcome"] == "waiting"


def test_who_has_waited_longer_is_served_first(tenant, box):
    instance = serving(made(tenant, "young"), timedelta(seconds=5))
    first, second = made(tenant, "first"), made(tenant, "second")
    for model in (first, second):
        with pytest.raises(NoRoomYet):
            services.start_on_demand(model.pk)
    Instance.objects.filter(pk=instance.pk).update(ready_at=timezone.now() - LONG_AGO)
    with pytest.raises(NoRoomYet):
        services.start_on_demand(second.pk)
    services.start_on_demand(first.pk)
    assert Instance.objects.get(desired="running").model == first


def test_what_is_no_model_displaces_idle_ones_but_not_past_who_has_waited_longer(tenant, box):
    def settle(owner: str, queued_at) -> bool:
        way = ResourceOption(kind="cpu", count=1, share=3 * GIB, estimate=MemoryEstimate(3 * GIB, 0, 0))
        request = PlacementRequest(owner, (way,))
        return claim.place_and_claim(owner, request, lambda: cluster_view.view_for_workload("vllm", queued_at)).placed

    long_ago = timezone.now() - LONG_AGO
    idle = serving(made(tenant, "young"), timedelta(seconds=5))
    with pytest.raises(NoRoomYet):
        services.start_on_demand(made(tenant, "waiting").pk)
    Instance.objects.filter(pk=idle.pk).update(ready_at=long_ago)
    assert not settle("job-late", timezone.now())
    assert settle("job-early", long_ago)
    idle.refresh_from_db()
    assert (idle.desired, idle.stop_reason, idle.reservations.get().leaving) == ("stopped", "evicted", True)
    assert not memory_ledger.may_start("job-early")  # until the idle one is gone


def test_a_pinned_models_room_is_not_waited_for(tenant, box):
    serving(made(tenant, "pinned", pinned=True))
    with pytest.raises(InsufficientResources) as refused:
        services.start_on_demand(made(tenant, "new").pk)
    assert not isinstance(refused.value, NoRoomYet)


def test_an_evicted_model_that_is_asked_for_again_is_placed_anew(tenant, box):
    old = made(tenant, "old")
    going = serving(old)
    services.start(made(tenant, "new"))
    with pytest.raises(NoRoomYet):
        services.start_on_demand(old.pk)
    going.refresh_from_db()
    assert (going.desired, going.reservations.get().leaving) == ("stopped", True)


def test_the_limit_of_models_evicts_idle_ones_too(api, member, tenant, box, monkeypatch):
    monkeypatch.setattr(configuration, "current", lambda: Configuration(max_concurrent_models=1))
    old = serving(made(tenant, "old", 1), gib=1)
    made(tenant, "new", 1)
    assert start(api(member), "new").status_code == 200
    old.refresh_from_db()
    assert old.stop_reason == "evicted"
    made(tenant, "third", 1)
    reply = start(api(member), "third")
    assert code(reply) == (503, "INSUFFICIENT_RESOURCES")
    assert "max_concurrent_models" in reply.json()["message"]


def test_a_missing_replica_comes_where_something_else_is_not_used(api, owner, tenant, box):
    """A wish that found no room when it was made stands; two models with replicas do not take from each other."""
    other = serving(made(tenant, "other", 2), gib=2)
    wide = made(tenant, "wide", 2)
    serving(wide, gib=2)
    heard(inflight={other.pk: 1})
    reply = api(owner).patch(f"{MODELS}/wide", {"replicas": 2})
    assert "1 of 2 replicas have found a place" in reply.json()["warnings"][0]
    replicas.ReplicaReconciler().work()
    held = explained(api(owner), "wide")["decisions"][0]["holders"]
    assert {each["model_name"]: each["why"] for each in held}["other"] == "requests are in flight"
    GatewayHeartbeat.objects.update(inflight={})
    for count, serving_now in ((2, 1), (1, 2)):
        Model.objects.filter(name="other").update(replicas=count)
        replicas.ReplicaReconciler().work()
        assert wide.instances.wanted().count() == serving_now
    other.refresh_from_db()
    assert other.stop_reason == "evicted"


# --- profiles


def profile(name: str, **fields) -> dict:
    return {"name": name, "device": "cpu", **fields}


def test_profiles_are_tried_in_their_order_and_shown_as_config_source(api, owner, member, tenant, box):
    gpu = profile("2xH100", device="cuda", gpu_count=2)
    big, small = profile("big", memory=64_000), profile("small", memory=1024, config={"n_ctx": 64})
    Model.objects.create(tenant=tenant, name="m", tags=["fake"], config={"model_path": "serai-demo"})
    Model.objects.update(profiles=[gpu, big, small])
    assert start(api(member), "m").status_code == 200
    instance = Instance.objects.get()
    assert (instance.profile, instance.reservations.get().bytes) == ("small", GIB)
    assert api(member).get(f"{MODELS}/m/info").json()["model"]["config_source"] == "small"
    words = explained(api(member), "m")["decisions"][0]["candidates"]
    assert [(word["profile"], word["taken"]) for word in words] == [("big", False), ("small", True)]


def test_the_engine_is_started_as_the_profile_says(api, member, tenant, box):
    for index in range(2):
        Device.objects.create(node=box, kind="cuda", index=index, name="G", total_bytes=16 * GIB, usable_bytes=15 * GIB)
    pair = profile("pair", device="cuda", gpu_count=2, gpu_memory=4096, config={"n_ctx": 128})
    Model.objects.create(tenant=tenant, name="m", config={"model_path": "serai-demo"}, profiles=[pair])
    assert start(api(member), "m").status_code == 200
    instance = Instance.objects.get()
    assert [claim.bytes for claim in instance.reservations.all()] == [4 * GIB, 4 * GIB]
    command = process_tree.command_for(instance)
    arguments = " ".join(command.argv)
    assert "--tensor-parallel-size 2" in arguments and "--max-model-len 128" in arguments
    assert command.env["CUDA_VISIBLE_DEVICES"] == "0,1"


@pytest.mark.parametrize(
    ("profiles", "field"),
    [
        ({}, "profiles"),
        ([7], "profiles.0"),
        ([{"device": "cpu"}], "profiles.0.name"),
        ([{"name": "a", "device": "tpu"}], "profiles.0.device"),
        ([profile("a"), profile("b", colour="red")], "profiles.1.colour"),
        ([profile("a"), profile("a")], "profiles.1.name"),
        ([profile("a", gpu_count=1)], "profiles.0.gpu_count"),
        ([profile("a", config={"trust_remote_code": True})], "profiles.0.config.trust_remote_code"),
        ([profile("a", config={"model_path": "elsewhere"})], "profiles.0.config.model_path"),
        ([profile("a", config=[])], "profiles.0.config"),
        ([profile("a", memory=10_000_000)], "profiles.0.memory"),
        ([profile(f"p{number}") for number in range(17)], "profiles"),
    ],
)
def test_a_wrong_profile_is_refused_by_its_place(api, owner, box, profiles, field):
    body = {"name": "m", "framework": "vllm", "config": {"model_path": "serai-demo"}, "profiles": profiles}
    reply = api(owner).post(MODELS, body)
    assert code(reply) == (422, "INVALID_REQUEST")
    assert list(reply.json()["error"]["details"]) == [field]
    api(owner).post(MODELS, {**body, "profiles": []})
    assert code(api(owner).patch(f"{MODELS}/m", {"profiles": profiles})) == (422, "INVALID_REQUEST")
    assert Model.objects.get().profiles == []


def test_machines_are_named_by_operators_and_to_operators_only(api, owner, operator, box):
    mine = [profile("a", node="box")]
    body = {"name": "m", "framework": "vllm", "config": {"model_path": "serai-demo"}}
    assert code(api(owner).post(MODELS, {**body, "profiles": mine})) == (403, "AUTHORIZATION_FAILED")
    root = api(operator, **{"Serai-Tenant": "acme"})
    assert root.post(MODELS, {**body, "profiles": mine}).status_code == 201
    assert root.get(f"{MODELS}/m").json()["profiles"] == mine
    assert api(owner).get(f"{MODELS}/m").json()["profiles"] == [profile("a")]
    assert api(owner).get(MODELS).json()["items"][0]["profiles"] == [profile("a")]


# --- estimates


def test_an_estimate_says_what_it_takes_where_it_fits_and_who_would_go(api, viewer, tenant, box):
    serving(made(tenant, "old", priority=3))
    made(tenant, "new")
    found = api(viewer).get(f"{MODELS}/new/estimate").json()
    assert found["outcome"] == "evicts"
    assert [(each["model_name"], each["priority"]) for each in found["would_evict"]] == [("old", 3)]
    cpu = found["ways"][1]
    assert (cpu["device"], cpu["source"], cpu["total"]) == ("cpu", "resource_requirements", 3072)
    assert (cpu["weights"], cpu["overhead"], cpu["kv_cache"]) == (16, 16, 16)
    (word,) = cpu["devices"]
    assert (word["node"], word["device"], word["fits"]) == (None, "cpu:0", False)
    assert word["why"] == "1.0 of 4.0 GiB free, 3.0 GiB needed"
    assert not PlacementRecord.objects.exists()
    assert Instance.objects.get().desired == "running"


def test_strangers_get_no_estimate_and_no_explanation(api, stranger, tenant, box):
    made(tenant, "new")
    for question in ("estimate", "explain"):
        assert code(api(stranger).get(f"{MODELS}/new/{question}")) == (404, "MODEL_NOT_FOUND")


def test_a_public_models_decisions_are_its_tenants(api, member, stranger, tenant, box):
    made(tenant, "open", visibility="public")
    start(api(member), "open")
    assert explained(api(stranger), "open")["decisions"] == []
    assert len(explained(api(member), "open")["decisions"]) == 1


def test_creation_tells_the_estimate(api, owner, box):
    body = {"name": "m", "framework": "vllm", "config": {"model_path": "serai-demo", "n_ctx": 64}, "tags": ["fake"]}
    made = api(owner).post(MODELS, body).json()
    assert (made["estimate"]["outcome"], made["estimate"]["ways"][1]["source"]) == ("fits", "files")
    later = api(owner).post(MODELS, {**body, "name": "later", "config": {"model_path": "later"}}).json()
    assert (later["estimate"], len(later["warnings"])) == (None, 1)


@pytest.mark.parametrize(
    ("fields", "field", "most"),
    [
        ({"resource_requirements": {"memory": 5000}}, "resource_requirements.memory", "4096"),
        ({"resource_requirements": {"cpu_cores": 65}}, "resource_requirements.cpu_cores", "64"),
        ({"config": {"kv_cache_bytes": 2**40}}, "config.kv_cache_bytes", str(4 * GIB)),
    ],
)
def test_what_no_machine_could_ever_hold_is_refused_with_the_figures(api, owner, box, fields, field, most):
    Device.objects.update(cores=64)
    body = {"name": "m", "framework": "vllm", "config": {"model_path": "serai-demo"}} | fields
    reply = api(owner).post(MODELS, body)
    assert code(reply) == (422, "INVALID_REQUEST")
    assert most in reply.json()["error"]["details"][field]
    assert not Model.objects.exists()


def test_gpus_that_no_machine_has_are_warned_of_and_the_start_says_so(api, owner, box):
    body = {"name": "m", "framework": "vllm", "config": {"model_path": "serai-demo"}, "tags": ["fake"]}
    made = api(owner).post(MODELS, {**body, "resource_requirements": {"gpu_count": 1, "gpu_memory": 4096}})
    assert made.status_code == 201
    assert "GPU" in made.json()["warnings"][0]
    reply = start(api(owner), "m")
    assert code(reply) == (503, "INSUFFICIENT_RESOURCES")
    assert reply.json()["message"] == "No machine has a device of the kind that the model asks for."


def test_more_gpus_than_a_machine_has_are_refused(api, owner, box):
    Device.objects.create(node=box, kind="cuda", name="G", total_bytes=16 * GIB, usable_bytes=15 * GIB)
    body = {"name": "m", "framework": "vllm", "resource_requirements": {"gpu_count": 2, "gpu_memory": 20_000}}
    details = api(owner).post(MODELS, body).json()["error"]["details"]
    assert set(details) == {"resource_requirements.gpu_count", "resource_requirements.gpu_memory"}


def test_records_are_capped_for_each_model(api, member, tenant, box, monkeypatch):
    monkeypatch.setattr("inference.placement.decision_log.MAX_PER_MODEL", 3)
    made(tenant, "m", 1)
    for _again in range(5):
        start(api(member), "m")
        Instance.objects.all().delete()
        Device.objects.update(reserved_bytes=0)
    assert len(explained(api(member), "m")["decisions"]) == 3


def test_a_silent_machine_takes_nothing(api, member, tenant, box):
    Node.objects.update(heartbeat_at=timezone.now() - timedelta(minutes=1))
    made(tenant, "m")
    reply = start(api(member), "m")
    assert code(reply) == (503, "ENGINE_UNAVAILABLE")
    assert "box" not in reply.content.decode()
