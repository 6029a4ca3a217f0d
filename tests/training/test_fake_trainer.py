"""The fake trainer keeps the contract that the real one keeps, and breaks it only where it is told to."""

import json
import signal

import pytest

from tests.support.trainer_runs import Job, conversation, tensors
from training.trainer import checkpoints

ROWS = [conversation(f"Question {number}", f"Answer {number}") for number in range(20)]
STEPS = 15  # 20 rows, 4 a step, 3 times


@pytest.fixture
def job(tmp_path):
    return Job(tmp_path / "job", ROWS)


def test_a_run_tells_of_every_step_and_leaves_an_adapter(job):
    run = job.fake(save_steps=5, eval_steps=5)
    assert run.finish() == 0, run.stderr
    assert [event["step"] for event in run.events("step")] == list(range(1, STEPS + 1))
    assert [event["folder"] for event in run.events("checkpoint")] == [
        f"checkpoints/checkpoint-{n}" for n in (5, 10, 15)
    ]
    assert (run.event_names()[0], run.event_names()[-1]) == ("start", "done")
    assert sorted(path.name for path in (run.folder / "checkpoints").iterdir()) == ["checkpoint-10", "checkpoint-15"]
    assert [len(values) for values in tensors(run.folder / "adapter").values()] == [8 * 4, 4 * 8]
    assert run.evaluation["before"] is None and len(run.evaluation["samples"]) == 4


def test_held_out_rows_are_measured_before_during_and_after(job):
    run = job.fake(held_out=[3, 5], eval_steps=5)
    assert run.finish() == 0
    assert [event["when"] for event in run.events("evaluation")] == ["before", "during", "during", "after"]
    assert run.evaluation["after"]["loss"] < run.evaluation["before"]["loss"]
    assert run.events("start")[0]["rows"] == 18


def test_a_stopped_run_leaves_a_checkpoint_from_which_the_next_ends_with_the_same_weights(job):
    whole = job.fake(0)
    assert whole.finish() == 0
    stopped = job.fake(1, {"step_seconds": 0.05})
    stopped.wait_until(lambda: len(stopped.events("step")) >= 7)
    assert stopped.stop() == 3
    step = stopped.events("stopped")[0]["step"]
    resumed = job.fake(2, resume=stopped.folder / "checkpoints" / f"checkpoint-{step}")
    assert resumed.finish() == 0
    assert resumed.events("start")[0]["step"] == step
    assert resumed.adapter == whole.adapter


@pytest.mark.parametrize(
    ("faults", "code"),
    [({"crash_at_step": 7}, 1), ({"kill_at_step": 7}, -signal.SIGKILL), ({"disk_full_at_step": 7}, 2)],
)
def test_it_ends_at_the_step_it_is_told_to(job, faults, code):
    run = job.fake(0, faults)
    assert run.finish() == code
    assert run.events("step")[-1]["step"] == 6 and not (run.folder / "adapter").exists()


def test_a_torn_line_is_left_at_the_end(job):
    run = job.fake(0, {"torn_line_at_step": 3})
    assert run.finish() == -signal.SIGKILL
    assert not (run.folder / "progress.jsonl").read_text().endswith("\n")
    assert run.events()[-1]["step"] == 2


def test_a_truncated_checkpoint_does_not_match_its_manifest(job):
    run = job.fake(0, {"truncated_checkpoint_at_step": 10})
    assert run.finish() == 0
    assert checkpoints.check(run.folder / "checkpoints" / "checkpoint-15")["step"] == 15
    with pytest.raises(checkpoints.DamagedCheckpoint, match=r"checkpoint-10: state\.json"):
        checkpoints.check(run.folder / "checkpoints" / "checkpoint-10")


def test_a_deaf_trainer_works_on_after_sigterm(job):
    run = job.fake(0, {"deaf": True, "step_seconds": 0.02})
    run.wait_until(lambda: run.events("step"))
    assert run.stop() == 0
    assert run.events("done")


def test_a_hanging_trainer_ends_by_sigkill_only(job):
    run = job.fake(0, {"hang_at_step": 3, "step_seconds": 0.02})
    run.wait_until(lambda: len(run.events("step")) == 2)
    run.process.terminate()
    run.process.kill()
    assert run.finish() == -signal.SIGKILL


def test_faults_can_be_kept_to_one_generation(job):
    faults = {"crash_at_step": 3, "only_in_generation": 0}
    assert job.fake(0, faults).finish() == 1
    assert job.fake(1, faults).finish() == 0


def test_a_refusal_is_told_with_its_field(job):
    run = job.fake(0, {"refuse": {"reason": "There is no such layer.", "field": "target_modules"}})
    assert run.finish() == 2
    assert json.loads((run.folder / "progress.jsonl").read_text())["field"] == "target_modules"


def test_rows_are_cut_and_left_out_as_the_real_trainer_does(tmp_path):
    rows = [conversation("Q", "A"), conversation("Q", "word " * 30), conversation("word " * 30, "A")]
    untaught = conversation("Q", "A") | {"weight": 0}
    run = Job(tmp_path / "job", [*rows, untaught]).fake(max_seq_length=16)
    assert run.finish() == 0
    (start,) = run.events("start")
    assert (start["rows"], start["truncated"], start["left_out"], start["limit"]) == (2, 1, 2, 16)
    assert len(run.evaluation["samples"]) == 2


def test_rows_that_are_all_too_long_are_an_error(tmp_path):
    run = Job(tmp_path / "job", [conversation("word " * 30, "A")]).fake(max_seq_length=16)
    assert run.finish() == 2
    assert run.events("error")[0]["field"] == "max_seq_length"
