"""What the runner does next, and what it reads: no processes, no database rows."""

import json
from pathlib import Path

import pytest

from node_agent import folders
from node_agent.process_tree import ProcessStatus
from node_agent.shims import ShimState
from training.models import TrainingJob
from training.runner import checkpoints, job_diagnosis
from training.runner.job_lifecycle import JobFacts, JobObservation, JobStep, count_crashes, decide
from training.runner.progress_reader import BYTES_PER_READ, MAX_LINE_BYTES, ProgressReader
from training.runner.run import TrainingRun
from training.trainer.checkpoints import save_checkpoint

NONE, RUNNING, EXITED, LOST = ProcessStatus.NONE, ProcessStatus.RUNNING, ProcessStatus.EXITED, ProcessStatus.LOST


def job(state: str, desired: str = "running", **fields) -> TrainingJob:
    return TrainingJob(id="job-1", state=state, desired=desired, generation=1, running_generation=1, **fields)


@pytest.mark.parametrize(
    ("state", "desired", "process", "seen", "step"),
    [
        ("queued", "running", NONE, {}, JobStep.LAUNCH),
        ("queued", "running", EXITED, {}, JobStep.LAUNCH),
        ("queued", "running", NONE, {"may_launch": False}, JobStep.WAIT),
        ("queued", "running", RUNNING, {}, JobStep.SWEEP),
        ("queued", "running", LOST, {}, JobStep.SWEEP),
        ("queued", "cancelled", NONE, {}, JobStep.CANCELLED),
        ("queued", "paused", NONE, {}, JobStep.PAUSED),
        ("queued", "cancelled", RUNNING, {}, JobStep.SWEEP),
        ("running", "running", RUNNING, {}, JobStep.WAIT),
        ("running", "running", LOST, {}, JobStep.SWEEP),
        ("running", "paused", RUNNING, {}, JobStep.END),
        ("running", "cancelled", RUNNING, {}, JobStep.END),
        ("running", "running", EXITED, {"all_read": False, "finished": True}, JobStep.WAIT),
        ("running", "running", EXITED, {"finished": True, "exit_code": 0}, JobStep.COMPLETED),
        ("running", "paused", EXITED, {"finished": True, "exit_code": 0}, JobStep.COMPLETED),
        ("running", "cancelled", EXITED, {"finished": True, "exit_code": 0}, JobStep.CANCELLED),
        ("running", "running", EXITED, {"exit_code": 0}, JobStep.CRASHED),
        ("running", "running", EXITED, {"exit_code": 1}, JobStep.CRASHED),
        ("running", "running", NONE, {}, JobStep.CRASHED),
        ("running", "running", EXITED, {"refused": True, "exit_code": 1}, JobStep.FAILED),
        ("running", "running", EXITED, {"exit_code": 2}, JobStep.FAILED),
        ("running", "paused", EXITED, {"refused": True, "exit_code": 2}, JobStep.FAILED),
        ("running", "paused", EXITED, {"exit_code": 3}, JobStep.PAUSED),
        ("running", "paused", NONE, {}, JobStep.PAUSED),
        ("running", "cancelled", NONE, {}, JobStep.CANCELLED),
        ("running", "running", EXITED, {"exit_code": 3}, JobStep.AGAIN),
        ("running", "running", EXITED, {"reason": "supervisor"}, JobStep.AGAIN),
        ("running", "running", EXITED, {"reason": "lease"}, JobStep.AGAIN),
        ("completed", "running", NONE, {}, JobStep.WAIT),
    ],
)
def test_the_one_next_step(state, desired, process, seen, step):
    end = {name: seen[name] for name in ("exit_code", "reason") if name in seen}
    facts = {name: value for name, value in seen.items() if name not in end}
    shim = ShimState(**end) if process == EXITED else None
    facts = JobFacts(TrainingRun("job-1", 1, Path()), **facts)
    assert decide(JobObservation(job(state, desired), process, shim, facts)) == step


@pytest.mark.parametrize(
    ("crashes", "crashed_at", "step", "now"), [(0, None, 0, 1), (1, 6, 6, 2), (2, 6, 5, 3), (2, 6, 7, 1), (2, 6, 0, 3)]
)
def test_only_crashes_without_a_step_forward_add_up(crashes, crashed_at, step, now):
    assert count_crashes(job("running", crashes=crashes, crashed_at_step=crashed_at, step=step)) == now


# --- the trainer's words


@pytest.fixture
def told(tmp_path):
    path = tmp_path / "progress.jsonl"
    path.touch()
    return path


def step(number: int, **fields) -> str:
    return json.dumps({"event": "step", "step": number, **fields})


def add(path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def test_a_torn_line_is_read_when_it_is_whole(told):
    reader = ProgressReader(told)
    add(told, step(1) + "\n" + step(2)[:9])
    assert [event.step for event in reader.read()] == [1]
    assert reader.read() == []
    add(told, step(2)[9:] + "\n")
    assert [event.step for event in reader.read()] == [2]


@pytest.mark.parametrize(
    "nonsense",
    [
        "no JSON", "[1]", "null", '"step"', "{}", '{"event": "step"}', '{"event": "step", "step": -1}',
        '{"event": "step", "step": "1"}', '{"event": "step", "step": true}', '{"event": "drop table", "step": 1}',
        '{"event": ["step"], "step": 1}', '{"event": "step", "step": 99999999999}', "\x00\xff", "[" * 5000,
    ],
)  # fmt: skip
def test_nonsense_is_left_out(told, nonsense):
    add(told, f"{step(1)}\n{nonsense}\n{step(2)}\n")
    assert [event.step for event in ProgressReader(told).read()] == [1, 2]


@pytest.mark.parametrize("size", [MAX_LINE_BYTES + 1, BYTES_PER_READ, 3 * BYTES_PER_READ])
def test_a_huge_line_is_passed_over_and_what_follows_is_read(told, size):
    add(told, f"{step(1)}\n{'x' * size}\n{step(2)}\n")
    reader, found = ProgressReader(told), []
    while not reader.all_read:
        found += reader.read()
    assert [event.step for event in found] == [1, 2]


def test_a_huge_line_that_is_still_being_written_holds_nothing_up(told):
    add(told, "x" * (MAX_LINE_BYTES + 1))
    reader = ProgressReader(told)
    assert reader.read() == []
    add(told, "x" * 100 + f"\n{step(1)}\n")
    assert [event.step for event in reader.read()] == [1]


def test_a_file_that_shrank_is_read_from_its_beginning(told):
    reader = ProgressReader(told)
    add(told, f"{step(1)}\n{step(2)}\n")
    reader.read()
    told.write_text(step(3) + "\n")
    assert [event.step for event in reader.read()] == [3]


def test_a_file_that_is_not_there_says_nothing(tmp_path):
    assert ProgressReader(tmp_path / "progress.jsonl").read() == []


@pytest.mark.parametrize("value", ['"1"', "true", "null", "[1]", "1e999", "1" * 400])
def test_a_figure_that_is_no_finite_number_is_missing(told, value):
    add(told, '{"event": "step", "step": 1, "loss": ' + value + "}\n" + step(2, loss=0.5) + "\n")
    figures = {event.step: event.number("loss") for event in ProgressReader(told).read()}
    assert figures[2] == 0.5 and figures.get(1) is None


# --- checkpoints


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "job" / "gen-1"
    (folder / "checkpoints").mkdir(parents=True)
    return folder


def saved(run, number: int) -> dict:
    draft = run / "draft"
    draft.mkdir()
    (draft / "weights").write_bytes(bytes([number]) * 100)
    save_checkpoint(draft, run / "checkpoints", number)
    return checkpoints.sign("job-1", 1, run, f"checkpoints/checkpoint-{number}")


def newest(run, kept: list[dict], owner: str = "job-1") -> int | None:
    return checkpoints.copy_newest(owner, kept, run.parent, run.parent / "resume")


def test_the_newest_checkpoint_is_copied(run):
    kept = [saved(run, 5), saved(run, 10)]
    assert newest(run, kept) == 10
    assert (run.parent / "resume" / "weights").read_bytes() == bytes([10]) * 100


def damage(folder, how: str) -> None:
    weights = folder / "weights"
    match how:
        case "truncated":
            weights.write_bytes(b"")
        case "changed":
            weights.write_bytes(bytes(100))
        case "gone":
            weights.unlink()
        case "link":
            weights.unlink()
            weights.symlink_to("/etc/passwd")
        case "link in the tree":
            (folder / "more").symlink_to("/etc")
        case "another file":
            (folder / "evil.pt").write_bytes(b"pickle")
        case "no manifest":
            (folder / "manifest.json").unlink()
        case "nonsense":
            (folder / "manifest.json").write_text("[]")


@pytest.mark.parametrize(
    "how", ["truncated", "changed", "gone", "link", "link in the tree", "another file", "no manifest", "nonsense"]
)
def test_what_is_not_as_it_was_signed_falls_back_to_the_one_before(run, how):
    kept = [saved(run, 5), saved(run, 10)]
    damage(run / "checkpoints" / "checkpoint-10", how)
    assert newest(run, kept[1:]) is None and not (run.parent / "resume").exists()
    assert newest(run, kept) == 5


def test_a_checkpoint_of_another_job_or_with_a_forged_signature_is_not_gone_on_from(run):
    kept = [saved(run, 5)]
    assert newest(run, kept, "job-2") is None
    assert newest(run, [kept[0] | {"signature": "0" * 64}]) is None
    assert newest(run, kept) == 5


@pytest.mark.parametrize("name", ["", "..", "../../secret", "/etc", "checkpoints/../x", "checkpoints/checkpoint-x"])
def test_only_folders_of_the_known_form_are_signed(run, name):
    assert checkpoints.sign("job-1", 1, run, name) is None


def test_one_that_the_trainer_has_removed_meanwhile_is_left_out(run):
    assert checkpoints.sign("job-1", 1, run, "checkpoints/checkpoint-5") is None


def test_the_row_keeps_the_newest_ones_of_what_was_not_fallen_back_from():
    def one(generation, at):
        return {"generation": generation, "step": at, "folder": f"checkpoints/checkpoint-{at}", "signature": ""}

    kept = [one(1, 5), one(1, 10)]
    assert checkpoints.add_entry(kept, one(1, 15)) == [one(1, 10), one(1, 15)]
    assert checkpoints.add_entry(kept, one(2, 8)) == [one(1, 5), one(2, 8)]
    assert checkpoints.add_entry(kept, one(2, 3)) == [one(2, 3)]
    assert checkpoints.add_entry(kept, one(1, 10)) == kept


# --- why it ended


@pytest.fixture
def last_words(settings, tmp_path):
    """last_words(line, …) is what the trainer of job-1 wrote last."""
    settings.DATA_DIR = tmp_path

    def write(*lines: str) -> None:
        folder = folders.folder_of("job-1")
        folder.mkdir()
        (folder / "engine.log").write_text("".join(f"1.000 {line}\n" for line in lines))

    return write


CRASHED = ShimState(phase="exited", exit_code=1, reason="exit")
KILLED = ShimState(phase="exited", signal=9, reason="exit")


@pytest.mark.parametrize(
    ("line", "state", "cause", "told"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", CRASHED, "out_of_memory", "batchSize"),
        ("OSError: [Errno 28] No space left on device", CRASHED, "disk_full", "The disk is full. (exit code 1)"),
        ("OSError: [Errno 27] File too large", CRASHED, "disk_full", "The disk is full."),
        ("FileNotFoundError: No such file or directory: '/srv/acme/w.bin'", CRASHED, "missing_file", "…/w.bin"),
        ("ValueError: the rope is short", CRASHED, "unknown", "ValueError: the rope is short (exit code 1)"),
        ("step 7", CRASHED, "unknown", "The training ended: exit code 1."),
        ("step 7", KILLED, "killed", "killed by signal 9"),
        ("RuntimeError: std::bad_alloc", KILLED, "out_of_memory", "ran out of memory"),
        ("step 7", None, "killed", "no trace of it was left"),
    ],
)
def test_the_cause_is_found_in_the_last_lines(last_words, line, state, cause, told):
    last_words("INFO begun", line)
    found = job_diagnosis.diagnose_end("job-1", state, "")
    assert found.cause == cause and told in found.reason and "/srv" not in found.reason
    assert found.lines == ["INFO begun", line]


def test_what_the_trainer_says_itself_goes_before_its_last_lines(last_words):
    last_words("ValueError: the rope is short")
    found = job_diagnosis.diagnose_end("job-1", CRASHED, "There is no layer x in /srv/models/base.")
    assert found.reason == "There is no layer x in …/base."
    assert job_diagnosis.diagnose_end("job-1", CRASHED, "The disk is full.").cause == "disk_full"
