"""Start, stop, restart, idle unload, failures and kills, on the fake engine under the real agent and shim."""

import concurrent.futures
import os
import signal
import time
import uuid
from contextlib import suppress

import psutil
import pytest

from tests.support.waiting import eventually


def chat(person, model, text="hello", **fields):
    body = {"model": model, "messages": [{"role": "user", "content": text}], **fields}
    return person.post("/v1/chat/completions", json=body)


def info(person, model):
    return person.get(f"/api/models/{model}/info").json()["model"]


def status(person, model):
    return person.get(f"/api/models/{model}").json()["status"]


def becomes(person, model, wanted, seconds=30):
    return eventually(lambda: status(person, model) == wanted, seconds)


def engine_pid(operator, tenant, model):
    reply = operator.get(f"/api/models/{model}/info", headers={"Serai-Tenant": tenant.slug})
    return reply.json()["model"]["pid"]


def worker_of(product):
    """The worker's process; None while there is none."""
    for child in psutil.Process(product.process.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it ended meanwhile, or waits to be reaped
            if child.cmdline()[-1:] == ["worker"]:
                return child
    return None


def held(person, model):
    """MiB of main memory that the model holds in the ledger."""
    return person.get(f"/api/models/{model}").json()["resource_usage"]["memory"]


def model_id(person, model):
    return person.get(f"/api/models/{model}").json()["id"]


def starts(person, model):
    return person.get("/api/tasks", params={"model_id": model_id(person, model), "kind": "start"}).json()["total"]


def finished(person, task):
    found = person.get(f"/api/tasks/{task}").json()
    return found if found["status"] != "running" else None


def test_a_request_starts_a_stopped_model_and_the_ledger_gives_its_memory_back(acme, key):
    model = acme.fake_model()
    assert status(key, model) == "created"

    assert chat(key, model).status_code == 200
    assert status(key, model) == "running"
    assert held(key, model) > 0

    key.post(f"/api/models/{model}/stop", json={})
    becomes(key, model, "stopped")
    assert held(key, model) == 0


def test_a_hundred_first_requests_make_one_start(acme, key):
    model = acme.fake_model(behaviour={"start_delay": 1})
    with concurrent.futures.ThreadPoolExecutor(100) as pool:
        replies = list(pool.map(lambda _: chat(key, model), range(100)))

    codes = [reply.status_code for reply in replies]
    assert set(codes) <= {200, 503}
    assert codes.count(200) > 0
    assert all("retry-after" in reply.headers for reply in replies if reply.status_code == 503)
    assert starts(key, model) == 1


def test_start_stop_and_restart_answer_with_a_task_that_ends_well(acme, member):
    model = acme.fake_model()
    for verb, word in (("start", "starting"), ("restart", "starting"), ("stop", "stopping")):
        reply = member.post(f"/api/models/{model}/{verb}")
        assert reply.status_code == 200
        assert reply.json()["success"] is True
        assert reply.json()["status"] == word
        task = reply.json()["task_id"]
        ended = eventually(lambda task=task: finished(member, task))
        assert ended["status"] == "succeeded", ended


def test_a_restart_is_another_process(acme, key, operator):
    model = acme.fake_model()
    chat(key, model)
    first = engine_pid(operator, acme, model)
    task = key.post(f"/api/models/{model}/restart").json()["task_id"]
    eventually(lambda: finished(key, task))
    second = engine_pid(operator, acme, model)
    assert first and second and first != second
    assert not psutil.pid_exists(first)


def test_strangers_cannot_run_or_see_anothers_model(acme, stranger):
    model = acme.fake_model()
    for verb in ("start", "stop", "restart"):
        reply = stranger.post(f"/api/models/{model}/{verb}")
        assert reply.status_code == 404
        assert reply.json()["error"]["code"] == "MODEL_NOT_FOUND"
    assert stranger.get(f"/api/models/{model}/info").status_code == 404


def test_viewers_may_look_and_not_start(acme, viewer):
    model = acme.fake_model()
    assert viewer.get(f"/api/models/{model}/info").status_code == 200
    assert viewer.post(f"/api/models/{model}/start").status_code == 403


def test_an_idle_model_gives_its_memory_back(acme, key):
    model = acme.fake_model(idle_timeout=2)
    chat(key, model)
    becomes(key, model, "stopped")
    assert held(key, model) == 0
    assert chat(key, model).status_code == 200  # and the next request starts it again


def test_a_pinned_model_stays(acme, key):
    model = acme.fake_model(idle_timeout=1, pinned=True)
    chat(key, model)
    time.sleep(4)
    assert status(key, model) == "running"


def test_a_failed_start_says_why_and_gives_its_memory_back(acme, key):
    model = acme.fake_model(behaviour={"crash_before_ready": {"code": 3, "stderr": "ValueError: the rope is short"}})
    reply = chat(key, model)
    assert reply.status_code == 503
    assert reply.json()["error"]["code"] == "model_not_ready"
    found = info(key, model)
    assert found["status"] == "failed"
    assert "the rope is short" in found["failure_reason"]
    assert "exit code 3" in found["failure_reason"]
    assert held(key, model) == 0


def test_requests_do_not_start_a_failed_model_over_and_over(acme, key):
    model = acme.fake_model(behaviour={"crash_before_ready": {"code": 3}})
    assert chat(key, model).status_code == 503
    second = chat(key, model)
    assert second.status_code == 503
    assert int(second.headers["retry-after"]) > 1
    assert starts(key, model) == 1


def test_a_start_that_takes_too_long_is_ended(acme, key):
    model = acme.fake_model(behaviour={"start_delay": 3600})
    task = key.post(f"/api/models/{model}/start", json={"timeout": 2}).json()["task_id"]
    ended = eventually(lambda: finished(key, task), 40)
    assert ended["status"] == "failed"
    assert "2 seconds" in ended["error"]


def test_an_engine_that_dies_while_it_loads_is_an_error_for_all_who_wait_long_before_the_timeout(acme, key):
    last_words = f"RuntimeError: {uuid.uuid4()}"
    model = acme.fake_model(behaviour={"start_delay": 1, "crash_before_ready": {"stderr": last_words}})
    task = key.post(f"/api/models/{model}/start", json={"timeout": 3600}).json()["task_id"]
    reply = chat(key, model)
    assert (reply.status_code, reply.json()["error"]["details"]["state"]) == (503, "failed")
    assert last_words in reply.json()["error"]["message"]
    ended = eventually(lambda: finished(key, task))
    assert ended["status"] == "failed"
    assert last_words in ended["error"]


def test_a_killed_engine_comes_back_by_itself(acme, key, operator):
    model = acme.fake_model()
    chat(key, model)
    pid = engine_pid(operator, acme, model)
    os.kill(pid, signal.SIGKILL)

    eventually(lambda: engine_pid(operator, acme, model) not in (None, pid))
    eventually(lambda: chat(key, model).status_code == 200)


def lives(process: psutil.Process) -> bool:
    """Ended processes whose new parent has not yet asked how they ended do not."""
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def test_a_killed_shim_leaves_no_orphan_and_the_model_comes_back(acme, key, operator):
    model = acme.fake_model(behaviour={"grandchildren": 1})
    chat(key, model)
    pid = engine_pid(operator, acme, model)
    shim = psutil.Process(pid).parent()
    tree = shim.children(recursive=True)
    shim.kill()

    eventually(lambda: engine_pid(operator, acme, model) not in (None, pid))
    eventually(lambda: chat(key, model).status_code == 200)
    assert len(tree) == 2
    assert not any(lives(process) for process in tree)


def test_a_killed_worker_finds_its_engines_again(product, acme, key, operator):
    model = acme.fake_model()
    chat(key, model)
    pid = engine_pid(operator, acme, model)
    killed = worker_of(product)
    killed.kill()

    assert chat(key, model).status_code == 200  # the engine goes on meanwhile
    eventually(lambda: worker_of(product) not in (None, killed))
    key.post(f"/api/models/{model}/stop")
    becomes(key, model, "stopped")  # the new worker has adopted it
    assert not psutil.pid_exists(pid)


def test_an_engine_that_is_deaf_to_sigterm_is_ended_with_its_grandchildren(acme, key, operator):
    model = acme.fake_model(behaviour={"ignore_sigterm": True, "grandchildren": 2})
    chat(key, model)
    pid = engine_pid(operator, acme, model)
    tree = psutil.Process(pid).parent().children(recursive=True)
    key.post(f"/api/models/{model}/stop", json={"force": True})
    becomes(key, model, "stopped", 40)
    assert len(tree) == 3
    assert not any(lives(process) for process in tree)


def test_a_running_model_is_deleted_only_by_force(acme, owner):
    model = acme.fake_model()
    chat(owner, model)
    refused = owner.delete(f"/api/models/{model}")
    assert refused.status_code == 409
    assert refused.json()["error"]["code"] == "CONFLICT"
    assert owner.delete(f"/api/models/{model}?force=true").status_code == 200
    assert owner.get(f"/api/models/{model}").status_code == 404


@pytest.mark.parametrize("body", [{"timeout": -1}, {"timeout": "soon"}, {"force": "maybe"}, [1]])
def test_a_wrong_start_body_is_refused(acme, key, body):
    reply = key.post(f"/api/models/{acme.fake_model()}/start", json=body)
    assert reply.status_code == 422
    assert reply.json()["error"]["code"] == "INVALID_REQUEST"
