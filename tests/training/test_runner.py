"""Training jobs on one node under everything that can happen to them: a fake trainer under the real shim and agent."""

import hashlib
import json
import os
import shutil
import signal
import uuid
from datetime import timedelta

import pytest
from django.db import OperationalError

from accounts.models import Installation
from core import broker
from engines import registry
from inference import memory_ledger
from inference.logs import stream
from inference.models import Device, Node, Reservation
from models_app.models import AdapterVersion
from node_agent import folders, node, processes, shims
from node_agent.agent import Agent
from node_agent.device_memory import DeviceMemory
from tests.support import agent_jobs as jobs
from tests.support.agent_jobs import SteppedAgent, run_folder, shim_of
from tests.support.trainer_runs import conversation
from tests.support.waiting import eventually
from training.datasets import storage
from training.models import TrainingJob, TrainingProgress
from training.runner import job_updates, results, runner
from training.trainer import checkpoints

LONG = 200  # steps: ten seconds, unless something comes between
SLOW = {"steps": LONG, "step_seconds": 0.05}
QUICK = {"steps": LONG}


@pytest.fixture
def bench(db, settings):
    settings.ENGINE_ADAPTERS = ["tests.fakes.fake_aware_engine.FakeAwareEngine"]
    settings.TRAINER = "tests.support.agent_jobs.trainer"
    registry.engines.cache_clear()
    broker.client().flushdb()
    Installation.objects.get_or_create(defaults={"cluster_id": uuid.uuid4()})
    made = SteppedAgent(Agent())
    made.agent.tick()
    yield made
    for job in TrainingJob.objects.all():
        if shims.is_running(shim_of(job)):
            shims.request_stop(folders.folder_of(job.pk), shim_of(job), 0)
        made.until(lambda job=job: not shims.is_running(shim_of(job)))
    registry.engines.cache_clear()


@pytest.fixture
def started(bench, tenant):
    """started(faults) is a job that was placed on the agent's node."""

    def start(faults: dict | None = None, **options) -> TrainingJob:
        job = jobs.waiting(tenant, faults, **options)
        assert jobs.place(job)
        return job

    return start


def is_given_back(job: TrainingJob) -> bool:
    return not Reservation.objects.of(job.pk).exists() and Device.objects.get(kind="cpu").reserved_bytes == 0


def steps_of(job: TrainingJob) -> list[int]:
    return list(TrainingProgress.objects.filter(job=job).values_list("step", flat=True))


def processes_of(job: TrainingJob) -> list:
    cluster, folder = str(Installation.objects.get().cluster_id), str(Node.objects.get().data_folder)
    return [process for process in processes.find_marked(cluster, folder) if process.instance == job.pk]


def test_a_job_runs_to_its_end_and_leaves_its_series_and_an_adapter(bench, started):
    job = bench.becomes(started(rows=60), "completed")
    assert (job.step, job.total_steps, job.epoch) == (42, 42, 3.0)
    assert job.loss == job.eval_loss == 0.5
    series = list(TrainingProgress.objects.filter(job=job))
    assert [row.step for row in series] == list(range(43))
    assert [row.step for row in series if row.eval_loss is not None] == [0, *range(5, 42, 5), 42]
    assert series[-1].loss < series[1].loss and series[-1].learning_rate is not None
    assert job.started_at and job.finished_at and job.elapsed_seconds >= series[-1].elapsed
    version = AdapterVersion.objects.get()
    assert (version.job_id, version.adapter.name, version.adapter.base_model) == (job.pk, "taught", job.base_model)
    assert version.evaluation["after"]["loss"] == 0.5
    assert is_given_back(job) and not processes_of(job)
    bench.until(lambda: not list(storage.folder_of(job).glob("gen-*")))


def test_samples_of_anything_that_rows_hold_are_kept_in_short(bench, tenant):
    job = jobs.waiting(tenant)
    odd = json.dumps(conversation("a\0b" + "long" * 10_000, "\0"))
    storage.path_of(job.dataset).write_text(f"{odd}\n" * 20)
    assert jobs.place(job)
    bench.becomes(job, "completed")
    sample = AdapterVersion.objects.get().evaluation["samples"][0]
    assert sample["prompt"][0]["content"].startswith("a\ufffdblong") and sample["expected"] == "\ufffd"
    assert len(sample["prompt"][0]["content"]) == 8000


def test_rows_that_the_trainer_cuts_or_leaves_out_are_told_everywhere(bench, started, tenant, api, member, monkeypatch):
    sent: list = []
    monkeypatch.setattr("training.jobs.transitions.publish_on_commit", lambda *told, **_options: sent.append(told))
    job = jobs.waiting(tenant, max_seq_length=16)
    rows = [conversation("Q", "A"), conversation("Q", "word " * 30), *[conversation("word " * 30, "A")] * 2]
    storage.path_of(job.dataset).write_text("".join(json.dumps(row) + "\n" for row in rows * 5))
    assert jobs.place(job)
    bench.becomes(job, "completed")
    shown = api(member).get(f"/api/training/jobs/{job.pk}").json()
    assert (shown["rows_cut"], shown["rows_left_out"], shown["total_steps"]) == (5, 10, 9)
    events = api(member).get(f"/v1/fine_tuning/jobs/{job.pk}/events").json()["data"]
    assert events[-3]["message"] == "5 of 20 rows are cut and 10 of 20 rows are left out at 16 tokens."
    assert (events[-3]["level"], events[-2]["message"]) == ("warn", "The job has started.")
    assert (sent[-1][2]["rows_cut"], sent[-1][2]["rows_left_out"]) == (5, 10)
    log = (folders.folder_of(job.pk) / "engine.log").read_text()
    assert "Rows of which nothing is learnt within 16 tokens, which are left out: 10." in log


def test_what_the_trainer_is_told(bench, started):
    job = bench.reaches(started({"hang_at_step": 2}, rows=60, target_modules=("q_proj",)), 1)
    spec = json.loads((run_folder(job, 1) / "spec.json").read_text())
    assert (spec["job"], spec["device"], spec["dtype"], spec["resume"]) == (job.pk, "cpu", "float32", None)
    assert len(spec["held_out"]) == 6 and spec["recipe"]["target_modules"] == ["q_proj"]
    assert job.launch["argv"][-1] == str(run_folder(job, 1) / "spec.json")
    assert run_folder(job, 1).stat().st_mode & 0o777 == 0o700


def test_progress_is_told_to_the_tenants_sockets(bench, started, tenant, monkeypatch):
    sent = []
    monkeypatch.setattr("training.jobs.transitions.publish_on_commit", lambda *told, **_options: sent.append(told))
    bench.becomes(started(), "completed")
    assert {(audience, event) for audience, event, _data in sent} == {(tenant.pk, "training_progress")}
    last = sent[-1][2]
    assert (last["status"], last["step"], last["total_steps"]) == ("completed", 15, 15)
    assert any(data["status"] == "running" and data["loss"] for _audience, _event, data in sent)


def test_one_start_per_device_at_a_time_holds_for_trainers(bench, started, tenant):
    first, second = started({"start_seconds": 30}), started()
    bench.becomes(first, "running")
    for _look in range(5):
        bench.agent.tick()
    second.refresh_from_db()
    assert second.state == "queued"
    memory_ledger.record_use(first.pk, "held")
    bench.becomes(second, "completed")


# --- what people ask


def test_a_pause_keeps_a_checkpoint_and_gives_the_memory_back_and_the_next_run_goes_on_from_it(bench, started):
    job = bench.reaches(started(SLOW), 3)
    job.desired = "paused"
    job.save()
    bench.becomes(job, "paused")
    assert job.node is None and is_given_back(job) and not processes_of(job)
    step = job.checkpoints[-1]["step"]
    assert step == job.step < LONG
    jobs.behave(job, QUICK)
    TrainingJob.objects.filter(pk=job.pk).update(state="queued", desired="running", generation=2)
    job.refresh_from_db()
    assert jobs.place(job)
    bench.becomes(job, "completed")
    assert job.running_generation == 2 and job.launch["resumed_from"] == step
    assert steps_of(job) == list(range(1, LONG + 1))


def test_a_pause_that_is_taken_back_goes_on_from_its_checkpoint(bench, started):
    job = bench.reaches(started(SLOW), 2)
    jobs.behave(job, QUICK)
    TrainingJob.objects.filter(pk=job.pk).update(desired="paused")
    bench.agent.tick()
    TrainingJob.objects.filter(pk=job.pk).update(desired="running")
    bench.becomes(job, "completed")
    assert (job.running_generation, job.crashes, job.step) == (2, 0, LONG)
    assert job.launch["resumed_from"] >= 2


@pytest.mark.parametrize("faults", [SLOW, SLOW | {"deaf": True}], ids=["obedient", "deaf"])
def test_a_cancel_ends_the_trainer_and_leaves_no_adapter(bench, started, faults, monkeypatch):
    monkeypatch.setattr(runner, "STOP_GRACE", 1.0)
    job = bench.reaches(started(faults), 2)
    TrainingJob.objects.filter(pk=job.pk).update(desired="cancelled")
    bench.becomes(job, "cancelled")
    assert is_given_back(job) and not processes_of(job) and not AdapterVersion.objects.exists()
    assert job.finished_at and job.step < LONG


@pytest.mark.parametrize(
    ("before", "at_the_last_moment", "state"),
    [("running", "cancelled", "cancelled"), ("paused", "cancelled", "cancelled"), ("paused", "running", "completed")],
)
def test_what_is_asked_at_the_moment_of_its_end_is_not_lost(
    bench, started, monkeypatch, before, at_the_last_moment, state
):
    is_back = DeviceMemory.is_released

    def ask(memory, owner, generation):
        TrainingJob.objects.filter(pk=owner, desired=before).update(desired=at_the_last_moment)
        monkeypatch.setattr(DeviceMemory, "is_released", is_back)
        return True

    job = started(SLOW if before == "paused" else QUICK)
    if before == "paused":
        bench.reaches(job, 2)
        jobs.behave(job, QUICK)
        TrainingJob.objects.filter(pk=job.pk).update(desired=before)
    monkeypatch.setattr(DeviceMemory, "is_released", ask)
    bench.becomes(job, state)
    assert is_given_back(job) and not processes_of(job)
    assert AdapterVersion.objects.exists() == (state == "completed")


def test_nobody_waits_for_the_ledger_while_an_adapter_is_kept(bench, started, monkeypatch):
    keep, held = results.save_adapter, []

    def look(job, folder):
        held.append(Reservation.objects.of(job.pk).exists())  # it is given back, and so the ledger locked, afterwards
        keep(job, folder)

    monkeypatch.setattr(results, "save_adapter", look)
    job = bench.becomes(started(), "completed")
    assert held == [True] and is_given_back(job)


def test_a_job_that_is_cancelled_before_its_launch_never_runs(bench, started):
    job = started()
    TrainingJob.objects.filter(pk=job.pk).update(desired="cancelled")
    bench.becomes(job, "cancelled")
    assert job.running_generation == 0 and is_given_back(job)


# --- faults


@pytest.mark.parametrize("victim", ["trainer", "shim"])
def test_after_kill_9_it_goes_on_from_the_last_checkpoint(bench, started, victim):
    job = bench.reaches(started({"hang_at_step": 8, "only_in_generation": 1}), 7)
    bench.until(lambda: TrainingJob.objects.get().checkpoints)
    state = shim_of(job)
    os.kill(state.pid if victim == "trainer" else state.shim_pid, signal.SIGKILL)
    bench.becomes(job, "completed")
    assert (job.running_generation, job.crashes, job.launch["resumed_from"]) == (2, 1, 5)
    assert steps_of(job) == list(range(1, 16))
    assert is_given_back(job)


def test_a_new_worker_adopts_the_trainer_and_reads_what_it_told_meanwhile(bench, started):
    job = bench.reaches(started({"step_seconds": 0.2}), 2)
    bench.agent = Agent()
    bench.becomes(job, "completed")
    assert (job.running_generation, job.crashes) == (1, 0)
    assert steps_of(job) == list(range(1, 16))


def test_what_was_told_while_the_database_was_away_is_written_afterwards(bench, started, monkeypatch):
    job = bench.reaches(started({"hang_at_step": 8}), 7)
    TrainingProgress.objects.all().delete()
    write, failed = job_updates.save_events, []

    def lost(*arguments):
        if not failed and arguments[1]:
            failed.append(arguments[1])
            raise OperationalError("the connection was lost")
        return write(*arguments)

    bench.agent = Agent()  # which reads all of it
    monkeypatch.setattr(job_updates, "save_events", lost)
    with pytest.raises(OperationalError):
        bench.until(lambda: False)
    assert failed
    bench.until(lambda: steps_of(job) == list(range(1, 8)))


def test_a_trainer_that_never_says_a_word_keeps_others_from_starting_only_for_a_while(bench, started, monkeypatch):
    first, second = started({"start_seconds": 600}), started()
    bench.becomes(first, "running")
    monkeypatch.setattr(runner, "START_TIMEOUT", timedelta(0))
    bench.becomes(second, "completed")
    first.refresh_from_db()
    assert first.state == "running"


def test_an_agent_that_was_replaced_writes_nothing_more(bench, started):
    job = bench.reaches(started({"hang_at_step": 4}), 3)
    node.register()  # a newer agent has begun
    TrainingJob.objects.filter(pk=job.pk).update(step=0)
    _instances, zombie = bench.agent.session.workloads
    for _look in range(20):
        zombie.reconcile()
    job.refresh_from_db()
    assert job.step == 0


def test_what_a_zombie_of_an_older_run_writes_counts_nothing(bench, started):
    job = bench.reaches(started({"hang_at_step": 8}), 7)
    jobs.behave(job, {"hang_at_step": 12})
    os.kill(shim_of(job).pid, signal.SIGKILL)
    bench.until(lambda: TrainingJob.objects.get().running_generation == 2)
    old = run_folder(job, 1)
    old.mkdir(exist_ok=True)
    with (old / "progress.jsonl").open("a") as file:
        file.write('{"event": "step", "step": 9000, "loss": 0}\n{"event": "done", "step": 9000}\n')
    (old / "adapter").mkdir(exist_ok=True)
    bench.reaches(job, 11)
    assert (job.state, job.step, job.total_steps) == ("running", 11, 15)
    assert steps_of(job) == list(range(1, 12))


def killed_after(bench, job: TrainingJob, steps: list[int]) -> TrainingJob:
    """Its trainer has killed itself, these checkpoints are in the row, and the next run has not been prepared yet."""
    bench.until(lambda: [each["step"] for each in TrainingJob.objects.get().checkpoints] == steps)
    eventually(lambda: not shims.is_running(shim_of(job)))
    return job


def test_a_truncated_newest_checkpoint_falls_back_to_the_one_before(bench, started):
    job = killed_after(bench, started({"kill_at_step": 12, "only_in_generation": 1}), [5, 10])
    newest = run_folder(job, 1) / "checkpoints" / "checkpoint-10" / "adapter_model.safetensors"
    os.truncate(newest, 10)
    bench.becomes(job, "completed")
    assert job.launch["resumed_from"] == 5
    assert steps_of(job) == list(range(1, 16))


def test_a_checkpoint_that_somebody_changed_with_its_manifest_is_not_gone_on_from(bench, started):
    job = killed_after(bench, started({"kill_at_step": 7, "only_in_generation": 1}), [5])
    folder = run_folder(job, 1) / "checkpoints" / "checkpoint-5"
    changed = b'{"step": 5, "weights": "evil"}'
    (folder / "state.json").write_bytes(changed)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["state.json"] = {"size": len(changed), "sha256": hashlib.sha256(changed).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert checkpoints.check(folder)
    bench.becomes(job, "completed")
    assert job.launch["resumed_from"] is None


def test_three_crashes_at_the_same_step_end_it_with_the_reason(bench, started, monkeypatch):
    monkeypatch.setattr(runner, "CRASH_DELAYS", (0, 0))
    job = bench.becomes(started({"crash_at_step": 7}), "failed")
    assert (job.crashes, job.crashed_at_step, job.running_generation) == (3, 6, 3)
    assert job.failure_reason.startswith("It crashed 3 times at step 6. RuntimeError: told to crash at step 7")
    assert any("told to crash" in line for line in job.log_tail)
    assert is_given_back(job) and not AdapterVersion.objects.exists()


def test_crashes_that_never_come_further_end_it_wherever_they_happen(bench, started, monkeypatch):
    monkeypatch.setattr(runner, "CRASH_DELAYS", (0, 0))
    job = started({"crash_at_step": 9})
    for generation, step in ((2, 7), (3, 8)):
        bench.until(lambda wanted=generation: TrainingJob.objects.filter(pk=job.pk, generation=wanted).exists())
        jobs.behave(job, {"crash_at_step": step})
    bench.becomes(job, "failed")
    assert (job.crashes, job.crashed_at_step, job.running_generation) == (3, 8, 3)


def test_a_crash_further_on_is_no_repetition(bench, started, monkeypatch):
    monkeypatch.setattr(runner, "CRASH_DELAYS", (0, 0))
    job = started({"hang_at_step": 3})
    for step in (3, 6, 9, 12):
        bench.reaches(job, step - 1)
        jobs.behave(job, {"hang_at_step": step + 3})
        os.kill(shim_of(job).pid, signal.SIGKILL)
    jobs.behave(job, {})
    bench.becomes(job, "completed")
    assert (job.running_generation, job.crashes) == (5, 1)


@pytest.mark.parametrize(
    ("faults", "reason", "cause"),
    [
        ({"disk_full_at_step": 7}, "The disk is full.", "disk_full"),
        ({"refuse": {"reason": "There is no such layer.", "field": "target_modules"}}, "no such layer", "unknown"),
    ],
)
def test_what_a_retry_will_not_cure_ends_it_at_once(bench, started, faults, reason, cause):
    job = bench.becomes(started(faults), "failed")
    assert reason in job.failure_reason and job.failure_cause == cause
    assert job.running_generation == 1 and is_given_back(job)
    assert not AdapterVersion.objects.exists()


def test_a_disk_that_is_full_before_the_launch_ends_it_and_leaves_nothing(bench, started, monkeypatch):
    def full(*_arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("training.runner.run_folder.write_atomically", full)
    job = bench.becomes(started(), "failed")
    assert (job.failure_reason, job.failure_cause) == ("The disk is full.", "disk_full")
    assert not run_folder(job, 1).exists() and is_given_back(job)


def test_a_data_set_whose_file_is_gone_ends_it_with_the_reason(bench, started):
    job = started()
    storage.path_of(job.dataset).unlink()
    bench.becomes(job, "failed")
    assert job.failure_reason == "The file of this data set is gone." and is_given_back(job)


def test_a_base_that_is_gone_ends_it_with_the_reason(bench, started):
    job = started()
    job.base_model.config = {"model_path": "gone"}
    job.base_model.save()
    bench.becomes(job, "failed")
    assert job.failure_reason and "/" not in job.failure_reason and is_given_back(job)


def test_torn_lines_and_nonsense_are_no_obstacle(bench, started):
    job = bench.becomes(started({"torn_line_at_step": 4, "only_in_generation": 1}), "completed")
    assert steps_of(job) == list(range(1, 16))


# --- beside engines


def test_its_processes_are_no_orphans_while_it_runs_and_are_when_it_has_ended(bench, started):
    job = bench.reaches(started({"hang_at_step": 2}), 1)
    bench.agent.session.orphans.sweep()
    assert processes_of(job)
    TrainingJob.objects.filter(pk=job.pk).update(state="cancelled")
    bench.agent.session.orphans.sweep()
    bench.until(lambda: not processes_of(job))


def test_its_lines_are_in_a_stream_of_its_own(bench, started):
    bench.agent.logs.start()
    try:
        job = bench.becomes(started({"crash_at_step": 1}), "failed")
        bench.until(lambda: any("told to crash" in entry.line.text for entry in stream.latest(job.pk, 100)))
    finally:
        bench.agent.logs.stop()
        shutil.rmtree(folders.folder_of(job.pk), ignore_errors=True)
