"""Training jobs on a running product: the fake trainer under the real shim, agent, queue and worker."""

import json
import shutil
import uuid
from pathlib import Path

from tests.live.test_lifecycle import worker_of
from tests.support.live_product import ROOT, LiveTenant, running
from tests.support.trainer_runs import conversation
from tests.support.waiting import eventually

SLOW = {"step_seconds": 1}
STEPS = 15


def base_of(tenant, faults: dict) -> str:
    """A model of the tenant whose files say how the fake trainer behaves."""
    name = f"base-{uuid.uuid4().hex[:8]}"
    shutil.copytree(ROOT / "demo" / "serai-demo", folder_of(tenant, name))
    behave(tenant, name, faults)
    return tenant.fake_model(name, config={"model_path": name})


def folder_of(tenant, base: str) -> Path:
    return tenant.product.data / "tenants" / tenant.slug / "models" / base


def behave(tenant, base: str, faults: dict) -> None:
    """From the next run on."""
    (folder_of(tenant, base) / "fake_trainer.json").write_text(json.dumps(faults))


def start(person, base: str) -> str:
    """A job of 15 steps; its id."""
    name = f"facts-{uuid.uuid4().hex[:8]}"
    rows = "".join(json.dumps(conversation(f"Question {n}", f"Answer {n}")) + "\n" for n in range(20))
    reply = person.post("/api/datasets", data={"name": name}, files={"file": ("facts.jsonl", rows)})
    assert reply.status_code == 201, reply.text
    recipe = {"epochs": 3, "save_steps": 5, "rank": 8}
    order = {"base_model": base, "dataset": name, "adapter": f"{name}-taught", "recipe": recipe}
    reply = person.post("/api/training/jobs", json=order)
    assert reply.status_code == 201, reply.text
    return reply.json()["id"]


def job(person, job_id: str) -> dict:
    return person.get(f"/api/training/jobs/{job_id}").json()


def reaches(person, job_id: str, step: int) -> dict:
    return eventually(lambda: (found := job(person, job_id))["step"] >= step and found, 90)


def becomes(person, job_id: str, status: str) -> dict:
    return eventually(lambda: (found := job(person, job_id))["state"] == status and found, 90)


def test_a_job_goes_its_way_by_itself_and_its_maker_reads_its_log(acme, member, stranger):
    base = base_of(acme, {})
    job_id = start(member, base)
    done = becomes(member, job_id, "completed")
    assert (done["step"], done["total_steps"], done["crashes"]) == (STEPS, STEPS, 0)
    points = member.get(f"/api/training/jobs/{job_id}/progress").json()["progress"]
    assert [point["step"] for point in points] == list(range(1, STEPS + 1))
    assert stranger.get(f"/api/training/jobs/{job_id}").status_code == 404


def test_kill_9_of_the_worker_costs_no_step(product, acme, member):
    job_id = start(member, base_of(acme, SLOW))
    reaches(member, job_id, 2)
    old = worker_of(product)
    old.kill()
    eventually(lambda: (new := worker_of(product)) and new.pid != old.pid, 60)
    done = becomes(member, job_id, "completed")
    assert (done["step"], done["crashes"]) == (STEPS, 0)
    points = member.get(f"/api/training/jobs/{job_id}/progress").json()["progress"]
    assert [point["step"] for point in points] == list(range(1, STEPS + 1))


def test_pause_and_resume_over_rest(acme, member):
    base = base_of(acme, SLOW)
    job_id = start(member, base)
    reaches(member, job_id, 2)
    behave(acme, base, {})
    assert member.post(f"/api/training/jobs/{job_id}/pause").status_code == 200
    paused = becomes(member, job_id, "paused")
    assert 2 <= paused["step"] < STEPS and paused["checkpoint_step"] == paused["step"]
    assert member.post(f"/api/training/jobs/{job_id}/resume").status_code == 200
    assert becomes(member, job_id, "completed")["step"] == STEPS


def test_a_cancel_ends_it_for_good(acme, member):
    job_id = start(member, base_of(acme, SLOW))
    reaches(member, job_id, 1)
    assert member.post(f"/api/training/jobs/{job_id}/cancel").status_code == 200
    assert becomes(member, job_id, "cancelled")["step"] < STEPS
    assert member.post(f"/api/training/jobs/{job_id}/resume").status_code == 409


def test_it_goes_on_after_the_whole_product_was_ended_and_started_again(tmp_path):
    def maker(product):
        return product.client(product.record["api_key"])

    with running(tmp_path / "data") as product:
        tenant = LiveTenant(product, product.record["tenant"])
        base = base_of(tenant, SLOW)
        job_id = start(maker(product), base)
        reaches(maker(product), job_id, 2)
        behave(tenant, base, {})
    with running(tmp_path / "data") as product:
        done = becomes(maker(product), job_id, "completed")
        assert (done["step"], done["crashes"]) == (STEPS, 0)
