"""Models that do not fit together, of two tenants on one machine: an idle one goes, a busy or pinned one never."""

import threading
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.live.test_lifecycle import becomes, chat, finished, status
from tests.support.live_product import LiveProduct, running
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
def narrow() -> LiveProduct:
    """A product with room for one model; a model may be evicted a second after it is ready."""
    with (
        TemporaryDirectory(prefix="serai-narrow-") as folder,
        running(Path(folder) / "data", SERAI_MIN_RESIDENCY="1") as started,
    ):
        reply = started.operator.put("/api/config", json={"max_concurrent_models": 1})
        assert reply.status_code == 200, reply.text
        yield started


@pytest.fixture(scope="module")
def acme(narrow):
    return narrow.tenant("acme")


@pytest.fixture(scope="module")
def globex(narrow):
    return narrow.tenant("globex")


@pytest.fixture(autouse=True)
def nothing_runs(narrow):
    yield
    narrow.operator.post("/api/models/stop-all", json={"force": True})
    eventually(lambda: narrow.client().get("/health").json()["running_models"] == 0)


def explained(person, model) -> dict:
    return person.get(f"/api/models/{model}/explain").json()


def test_an_idle_model_of_another_tenant_goes_for_the_one_that_is_asked_for(acme, globex):
    mine, theirs = acme.key(), globex.key()
    old, new = globex.fake_model(), acme.fake_model()
    assert chat(theirs, old).status_code == 200
    assert chat(mine, new).status_code == 200
    assert status(theirs, old) in ("stopping", "stopped")
    becomes(theirs, old, "stopped")
    assert explained(theirs, old)["stop_reason"] == "It made room for another model."
    assert explained(mine, new)["decisions"][0]["outcome"] == "placed"
    assert old not in str(explained(mine, new))
    assert chat(theirs, old).status_code == 200  # and comes back when somebody asks for it


def test_a_busy_model_ends_its_stream_before_the_other_begins(acme):
    key = acme.key()
    busy, new = acme.fake_model(behaviour={"token_interval": 0.2}), acme.fake_model()
    assert chat(key, busy).status_code == 200
    events, begun = [], threading.Event()

    def stream() -> None:
        body = {"model": busy, "messages": [{"role": "user", "content": "go on"}], "max_tokens": 60, "stream": True}
        with key.client.stream("POST", "/v1/chat/completions", json=body) as reply:
            for line in reply.iter_lines():
                events.append(line)
                begun.set()

    thread = threading.Thread(target=stream)
    thread.start()
    assert begun.wait(60)
    eventually(lambda: key.get(f"/api/models/{busy}/info").json()["model"]["pending_requests"])
    refused = key.post(f"/api/models/{new}/start")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "INSUFFICIENT_RESOURCES")
    waited = chat(key, new)
    thread.join()
    assert waited.status_code == 200, waited.text
    assert [line for line in events if line][-1] == "data: [DONE]"
    assert not [line for line in events if "error" in line]
    assert [decision["outcome"] for decision in explained(key, new)["decisions"]][0] == "placed"


def test_a_pinned_model_never_goes(acme):
    key = acme.key()
    pinned, new = acme.fake_model(pinned=True), acme.fake_model()
    assert chat(key, pinned).status_code == 200
    refused = chat(key, new)
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "insufficient_resources"
    assert status(key, pinned) == "running"


def test_of_two_models_whose_memory_does_not_fit_together_the_idle_one_goes(narrow, acme):
    narrow.operator.put("/api/config", json={"max_concurrent_models": 10})
    key = acme.key()
    size = narrow.operator.get("/api/devices/info").json()["devices"]["cpu"]["info"]["memory_total"] * 44 // 100
    first, second = (
        acme.fake_model(resource_requirements={"memory": size, "gpu_count": 0}) for _ in range(2)
    )  # of the 85 % that may be reserved
    try:
        for model in (first, second):  # others on this machine may hold much for a while
            eventually(lambda model=model: chat(key, model).status_code == 200, 120)
        becomes(key, first, "stopped")
        assert explained(key, first)["stop_reason"] == "It made room for another model."
    finally:
        narrow.operator.put("/api/config", json={"max_concurrent_models": 1})


def test_who_starts_with_the_worker_comes_back_with_it_and_who_was_asked_for_does_not():
    with TemporaryDirectory(prefix="serai-boot-") as folder:
        data = Path(folder) / "data"
        with running(data) as product:
            acme = product.tenant("acme")
            key = acme.key()
            marked, started, asked = acme.fake_model(auto_start=True), acme.fake_model(), acme.fake_model()
            task = key.post(f"/api/models/{started}/start").json()["task_id"]
            eventually(lambda: finished(key, task), 60)
            assert chat(key, asked).status_code == 200
        with running(data) as product:
            again = product.client(key.credential)
            for name in (marked, started):
                eventually(lambda name=name: again.get(f"/api/models/{name}").json()["status"] == "running", 60)
            assert again.get(f"/api/models/{asked}").json()["status"] == "stopped"
