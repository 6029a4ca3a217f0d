"""Several engines for one model: started and stopped together, scaled while they run, restarted one after the other."""

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.live.test_lifecycle import becomes, chat, engine_pid, finished, held, info, status
from tests.support.waiting import eventually


def replicas(person, model) -> tuple[int, int]:
    shown = person.get(f"/api/models/{model}").json()["replicas"]
    return shown["wanted"], shown["ready"]


def scale(person, model, count):
    reply = person.patch(f"/api/models/{model}", json={"replicas": count})
    assert reply.status_code == 200, reply.text
    return reply.json()


def ended(person, reply):
    assert reply.status_code == 200, reply.text
    return eventually(lambda: finished(person, reply.json()["task_id"]), 60)


@pytest.fixture
def model(acme, key):
    """Two replicas of it run."""
    name = acme.fake_model(replicas=2)
    assert ended(key, key.post(f"/api/models/{name}/start"))["status"] == "succeeded"
    yield name
    key.post(f"/api/models/{name}/stop", json={"force": True})


def test_a_start_is_done_when_all_replicas_are_ready_and_a_stop_when_all_are_gone(key, model):
    assert replicas(key, model) == (2, 2)
    assert info(key, model)["replicas"] == {"wanted": 2, "ready": 2}
    both = held(key, model)
    assert ended(key, key.post(f"/api/models/{model}/stop"))["status"] == "succeeded"
    assert (status(key, model), replicas(key, model), held(key, model)) == ("stopped", (2, 0), 0)
    assert both > 0


def test_a_running_model_is_scaled_up_and_down(key, model):
    before = held(key, model)
    assert scale(key, model, 3)["replicas"]["wanted"] == 3
    eventually(lambda: replicas(key, model) == (3, 3))
    assert held(key, model) > before
    scale(key, model, 1)
    eventually(lambda: replicas(key, model) == (1, 1) and 0 < held(key, model) < before)
    assert status(key, model) == "running"
    assert chat(key, model).status_code == 200


def test_scaling_a_stopped_model_starts_nothing(acme, key):
    name = acme.fake_model()
    assert scale(key, name, 2)["status"] == "created"
    assert chat(key, name).status_code == 200
    eventually(lambda: replicas(key, name) == (2, 2))  # a request starts them all


def test_a_killed_replica_is_replaced_while_the_other_serves(acme, key, operator, model):
    os.kill(engine_pid(operator, acme, model), signal.SIGKILL)
    assert {chat(key, model).status_code for _ in range(20)} == {200}
    eventually(lambda: replicas(key, model) == (2, 2))
    assert status(key, model) == "running"


def test_a_restart_leaves_one_serving_at_every_moment(key, model):
    seen, done = set(), threading.Event()

    def watch():
        while not done.is_set():
            seen.add(replicas(key, model)[1])
            assert chat(key, model).status_code == 200

    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(watch)
        try:
            task = ended(key, key.post(f"/api/models/{model}/restart"))
        finally:
            done.set()
        watching.result()
    assert task["status"] == "succeeded", task
    assert 0 not in seen
    assert replicas(key, model) == (2, 2)


def test_an_idle_model_goes_as_a_whole(acme, key):
    name = acme.fake_model(replicas=2, idle_timeout=2)
    chat(key, name)
    becomes(key, name, "stopped")
    assert held(key, name) == 0


def test_strangers_and_viewers_scale_nothing(key, viewer, stranger, model):
    assert viewer.patch(f"/api/models/{model}", json={"replicas": 3}).status_code == 403
    assert stranger.patch(f"/api/models/{model}", json={"replicas": 3}).status_code == 404
    assert replicas(key, model) == (2, 2)
