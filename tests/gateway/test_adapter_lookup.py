"""Adapters in the data plane: names, who may use them, where their requests go, and what they are metered as."""

import re
import threading
from dataclasses import replace

import pytest

from core import errors
from gateway.routing import model_lookup
from gateway.routing.snapshot import AdapterEntry, Caller, VersionEntry
from tests.support import adapter_files
from tests.support.gateway_server import MALLORY, MODEL, EngineProcess, chat, engine_folder, instance, served, snapshot
from tests.support.waiting import eventually

CHAT = "/v1/chat/completions"
V1, V2, V3 = (VersionEntry(f"version-{number}", number) for number in (1, 2, 3))
TRIAL = replace(V3, on_trial=True, user_id="user-max")
FACTS = AdapterEntry("adapter-1", "tenant-a", "facts", MODEL.id, current="version-1", versions=(TRIAL, V1))
TONE = AdapterEntry("adapter-2", "tenant-a", "tone", MODEL.id, versions=(replace(TRIAL, id="version-9", number=2),))
WORLD = snapshot(adapters=[FACTS, TONE])
ANYBODY, MAX = Caller("tenant-a", "member", key_id="key-1"), Caller("tenant-a", "member", user_id="user-max")
MAXS_KEY = Caller("tenant-a", "member", key_id="key-2", created_by_id="user-max")
STRANGER = Caller("tenant-m", "owner", user_id="user-mallory")


def meant(principal: Caller, ref: str, world=WORLD) -> str | None:
    """The version that a name means; None where there is nothing of that name for this caller."""
    try:
        return model_lookup.resolve_model(principal, ref, world).adapter
    except errors.ModelNotFound:
        return None


def listed(principal: Caller, world=WORLD) -> list[str]:
    return [entry.name for entry in model_lookup.visible_models(principal, world)]


# --- names


@pytest.mark.parametrize("ref", ["facts", "demo:facts", "team/demo:facts", "adapter-1", "version-1", "facts@1"])
def test_an_adapter_answers_to_its_name_with_or_without_its_base(ref):
    assert meant(ANYBODY, ref) == "version-1"


@pytest.mark.parametrize("ref", ["other:facts", "facts@2", "facts@", "facts@x", "@1", "demo:", ":facts", "version-7"])
def test_what_only_resembles_its_name_is_nothing(ref):
    assert meant(ANYBODY, ref) is None


@pytest.mark.parametrize("ref", ["facts", "demo:facts", "adapter-1", "version-1", "facts@1", "tone", "version-9"])
def test_strangers_and_their_operators_find_nothing(ref):
    assert meant(STRANGER, ref) is None
    assert listed(STRANGER) == []


def test_a_base_keeps_its_settings_under_the_adapters_name():
    base = replace(MODEL, sampling={"temperature": 0.2}, wait_timeout=7)
    found = model_lookup.resolve_model(ANYBODY, "facts", snapshot(models=[base], adapters=[FACTS]))
    assert (found.id, found.name, found.parent) == (base.id, "facts", "demo")
    assert (found.sampling, found.wait_timeout, found.context) == (base.sampling, 7, base.context)


def test_an_adapter_on_a_public_base_is_its_own_tenants_only():
    foreign = replace(MODEL, tenant_id="tenant-z", public=True)
    world = snapshot(models=[foreign], adapters=[FACTS])
    assert meant(ANYBODY, "facts", world) == "version-1"
    assert meant(STRANGER, "facts", world) is None
    withdrawn = snapshot(models=[replace(foreign, public=False)], adapters=[FACTS])
    assert meant(ANYBODY, "facts", withdrawn) is None


def test_an_own_adapter_goes_before_a_public_model_of_its_name():
    public = replace(MODEL, id="model-9", tenant_id="tenant-z", name="facts", aliases=(), public=True)
    assert meant(ANYBODY, "facts", snapshot(models=[MODEL, public], adapters=[FACTS])) == "version-1"


# --- trials


@pytest.mark.parametrize("maker", [MAX, MAXS_KEY])
def test_a_version_on_trial_answers_to_its_maker_only(maker):
    assert meant(maker, "facts@3") == meant(maker, "version-3") == "version-3"
    assert meant(ANYBODY, "facts@3") is meant(ANYBODY, "version-3") is None
    assert meant(maker, "facts") == "version-1"


def test_an_adapter_that_was_never_published_answers_to_its_maker_by_its_name():
    assert meant(MAX, "tone") == "version-9"
    assert meant(ANYBODY, "tone") is None


def test_what_a_key_had_trained_is_on_trial_for_that_key_and_its_maker():
    of_key = replace(FACTS, versions=(replace(TRIAL, key_id="key-2"), V1))
    world = snapshot(adapters=[of_key])
    assert meant(MAXS_KEY, "facts@3", world) == meant(MAX, "facts@3", world) == "version-3"
    assert meant(replace(MAXS_KEY, key_id="key-3"), "facts@3", world) is None


def test_what_is_listed_is_what_answers():
    assert listed(ANYBODY) == ["demo", "facts"]
    assert listed(MAX) == ["demo", "facts@3", "facts", "tone@2"]


def test_a_key_that_is_limited_to_models_must_name_the_adapter():
    for_base = replace(MAXS_KEY, models=frozenset({MODEL.id}))
    for_adapter = replace(ANYBODY, models=frozenset({"adapter-1"}))
    assert meant(for_base, "facts") is None
    assert meant(for_base, "facts@3") == "version-3"
    assert listed(for_base) == ["demo", "facts@3", "tone@2"]
    assert meant(for_adapter, "facts") == "version-1"
    assert listed(for_adapter) == ["facts"]


# --- requests


@pytest.fixture
def folder():
    with engine_folder() as made:
        yield made


@pytest.fixture
def engine(folder):
    """A fake engine that has versions 1 and 2 loaded."""
    made = EngineProcess(folder)
    for number in (1, 2):
        made.load(f"version-{number}", adapter_files.write_folder(folder / str(number)))
    return made


def loaded(engine: EngineProcess, *versions: str, number: int = 1, **fields):
    return instance(engine.endpoint, number, adapters=frozenset(versions), adapter_slots=4, **fields)


def content(reply) -> str:
    assert reply.status_code == 200, reply.text
    return reply.json()["choices"][0]["message"]["content"]


def test_requests_are_answered_by_the_version_and_metered_under_the_adapters_name(engine):
    with served(snapshot(loaded(engine, "version-1"), adapters=[FACTS])) as gateway, gateway.client() as client:
        assert content(client.post(CHAT, json=chat(model="facts"))).startswith("version-1 ")
        assert content(client.post(CHAT, json=chat())).startswith("token0")
        by_path = client.post("/api/models/facts/chat/completions", json=chat())
        assert content(by_path).startswith("version-1 ")
        records = gateway.ledger.wait(3)
        assert [(record.model_name, record.model_id) for record in records] == [
            ("facts", MODEL.id), ("demo", MODEL.id), ("facts", MODEL.id),
        ]  # fmt: skip
        assert all(record.usage.prompt and record.status == "ok" for record in records)


@pytest.mark.parametrize(
    ("path", "fields"), [(CHAT, {}), (CHAT, {"stream": True}), ("/v1/messages", {"max_tokens": 9})]
)
def test_replies_name_the_adapter_and_no_id_of_ours(engine, path, fields):
    with served(snapshot(loaded(engine, "version-1"), adapters=[FACTS])) as gateway, gateway.client() as client:
        reply = client.post(path, json=chat(model="facts") | fields)
        named = re.findall(r'"model":\s?"([^"]+)"', reply.text)
        assert reply.status_code == 200
        assert set(named) == {"facts"}


def test_they_are_listed_with_their_parent_for_their_tenant(engine):
    with served(snapshot(loaded(engine, "version-1"), adapters=[FACTS])) as gateway:
        with gateway.client() as client:
            cards = {card["id"]: card for card in client.get("/v1/models").json()["data"]}
            assert (cards["facts"]["parent"], cards["facts"]["aliases"]) == ("demo", ["demo:facts"])
            assert "parent" not in cards["demo"]
            assert client.get("/v1/models/demo:facts").json()["id"] == "facts"
        with gateway.client(MALLORY) as stranger:
            assert stranger.get("/v1/models").json()["data"] == []
            assert stranger.get("/v1/models/facts").status_code == 404
            refused = stranger.post(CHAT, json=chat(model="facts"))
            missing = stranger.post(CHAT, json=chat(model="nonsense"))
            assert refused.status_code == missing.status_code == 404
            assert refused.json()["error"]["code"] == missing.json()["error"]["code"] == "model_not_found"


def test_only_replicas_that_have_the_version_get_its_requests(engine, folder):
    without = EngineProcess(folder)
    world = snapshot(loaded(engine, "version-1"), instance(without.endpoint, 2, adapter_slots=4), adapters=[FACTS])
    with served(world) as gateway, gateway.client() as client:
        for _request in range(8):
            assert content(client.post(CHAT, json=chat(model="facts"))).startswith("version-1 ")
        assert {record.instance_id for record in gateway.ledger.wait(8)} == {"instance-1"}


def test_a_request_waits_for_the_version_to_be_loaded(engine):
    with served(snapshot(loaded(engine), adapters=[FACTS])) as gateway, gateway.client() as client:
        reply = []
        asking = threading.Thread(target=lambda: reply.append(client.post(CHAT, json=chat(model="facts"))))
        asking.start()
        eventually(lambda: gateway.gateway.context.starts.waiting_for_adapters() == {"version-1": 1})
        assert gateway.gateway.describe()["waiting"] == {MODEL.id: 1}
        gateway.publish(snapshot(loaded(engine, "version-1"), adapters=[FACTS]))
        asking.join()
        assert content(reply[0]).startswith("version-1 ")
        assert gateway.starts == []  # the base runs


def test_a_stopped_base_is_started_for_its_adapter_once(engine):
    with served(snapshot(adapters=[FACTS])) as gateway, gateway.client() as client:
        gateway.on_start = lambda _model: gateway.publish(snapshot(loaded(engine, "version-1"), adapters=[FACTS]))
        assert content(client.post(CHAT, json=chat(model="facts"))).startswith("version-1 ")
        assert gateway.starts == [MODEL.id]


def test_the_wait_for_a_load_is_bounded(engine):
    base = replace(MODEL, wait_timeout=0.2)
    world = snapshot(loaded(engine), models=[base], adapters=[FACTS])
    with served(world) as gateway, gateway.client() as client:
        reply = client.post(CHAT, json=chat(model="facts"))
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "model_not_ready")
        assert reply.headers["retry-after"]
        assert "not loaded yet" in reply.json()["error"]["message"]


def test_who_waits_while_all_slots_are_in_use_is_told_which_option_to_raise(engine):
    base = replace(MODEL, wait_timeout=0.2)
    full = replace(loaded(engine, "version-2"), adapter_slots=1)
    with served(snapshot(full, models=[base], adapters=[FACTS])) as gateway, gateway.client() as client:
        assert "max_cpu_loras" in client.post(CHAT, json=chat(model="facts")).json()["error"]["message"]


def test_a_base_that_was_started_without_adapters_says_so_at_once(engine):
    with served(snapshot(instance(engine.endpoint), adapters=[FACTS])) as gateway, gateway.client() as client:
        reply = client.post(CHAT, json=chat(model="facts"))
        assert reply.status_code == 409
        assert "config.enable_lora" in reply.json()["error"]["message"]
        assert content(client.post(CHAT, json=chat())).startswith("token0")


def test_an_adapter_that_the_engine_refused_is_told_with_its_word(engine):
    refused = replace(loaded(engine), refused={"version-1": "wrong shape"})
    with served(snapshot(refused, adapters=[FACTS])) as gateway, gateway.client() as client:
        reply = client.post(CHAT, json=chat(model="facts"))
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "engine_unavailable")
        assert "wrong shape" in reply.json()["error"]["message"]


def test_the_heartbeat_tells_what_is_in_flight_of_each_version(engine):
    with served(snapshot(loaded(engine, "version-1"), adapters=[FACTS])) as gateway, gateway.client() as client:
        slow = chat("[[hang_at_token=1]]", model="facts", stream=True)
        with client.stream("POST", CHAT, json=slow) as stream:
            lines = stream.iter_lines()  # a name keeps it open
            next(lines)
            told = gateway.gateway.describe()["adapters"]
            assert told["inflight"] == {"instance-1": {"version-1": 1}}
            assert told["routes"] == {"instance-1": ["version-1"]}
        eventually(lambda: not gateway.gateway.describe()["adapters"]["inflight"])
        assert "version-1" in gateway.gateway.describe()["adapters"]["idle"]["instance-1"]


def test_rolling_back_under_load_fails_nobody(engine):
    """The pointer moves while clients ask: each is answered by one of the two versions, in the end by the earlier."""
    newer, older = (replace(FACTS, current=version.id, versions=(version,)) for version in (V2, V1))
    replica = loaded(engine, "version-1", "version-2")
    answers, done = [], threading.Event()

    def ask() -> None:
        with gateway.client() as client:
            while not done.is_set():
                reply = client.post(CHAT, json=chat("[[token_interval=0.001]]", model="facts"))
                answers.append(reply.text if reply.status_code != 200 else content(reply)[:9])

    with served(snapshot(replica, adapters=[newer])) as gateway:
        clients = [threading.Thread(target=ask) for _ in range(8)]
        for client in clients:
            client.start()
        for number in range(10):
            eventually(lambda before=number: len(answers) > 40 * before)
            gateway.publish(snapshot(replica, adapters=[older if number % 2 else newer]))
        seen = len(answers)
        eventually(lambda: len(answers) > seen + 40)
        done.set()
        for client in clients:
            client.join()
    assert set(answers) == {"version-1", "version-2"}
    assert set(answers[-20:]) == {"version-1"}
