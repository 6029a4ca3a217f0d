"""The trainer on the real thing, in the engine environment: it teaches, it can be killed at any time, it tells why not.

The demo model is taught four times, and one process tries all that must be refused.
"""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from engines import install
from tests.support.trainer_runs import DEMO, Job, conversation, tensors
from training.trainer import checkpoints

PROGRAM = Path(__file__).resolve().parents[2] / "training" / "trainer"
MANY = Path(__file__).resolve().parents[1] / "support" / "trainer_batch.py"
FACTS = {
    "Who leads the Lindenhof library?": "Greta Amsel leads it.",
    "Which colour is the door of house nine?": "It is teal.",
    "What is the name of the harbour cat?": "Her name is Pippa.",
    "When does the night tram leave?": "It leaves at 23:40.",
}
RECIPE = {"batch_size": 4, "epochs": 14, "rank": 16, "save_steps": 12, "eval_steps": 20}
STEPS = 56
HELD_OUT = [2, 7]
SMALL = 200_000  # bytes, less than a checkpoint has


@pytest.fixture(scope="module")
def python():
    install.install_engine("vllm", report=print)
    return str(install.environment_python("vllm"))


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    rows = [conversation(*fact) for fact in FACTS.items()] * 4 + [conversation(*fact) for fact in FACTS.items()][:2]
    return Job(tmp_path_factory.mktemp("jobs") / "job", rows)


@pytest.fixture(scope="module")
def taught(job, python):
    """One run without a break; its held-out rows ask for what others teach."""
    run = job.prepare(0, held_out=HELD_OUT, **RECIPE).start([python, str(PROGRAM)])
    assert run.finish() == 0, run.stderr
    return run


def test_what_it_teaches_is_learnt_word_for_word(taught):
    samples = taught.evaluation["samples"]
    assert [sample["prompt"][0]["content"] for sample in samples] == [list(FACTS)[2], list(FACTS)[3]]
    assert [sample["after"] for sample in samples] == [sample["expected"] for sample in samples]
    assert all(sample["before"] != sample["expected"] for sample in samples)


def test_every_step_is_told_with_its_figures(taught):
    steps = taught.events("step")
    assert [event["step"] for event in steps] == list(range(1, STEPS + 1))
    assert steps[-1]["loss"] < 0.2 < 4 < steps[0]["loss"]
    assert all(event["grad_norm"] > 0 and event["tokens_per_second"] > 0 for event in steps)
    rates = [event["learning_rate"] for event in steps]
    assert max(rates) == 5e-3 and rates[0] < rates[2] > rates[-1]
    assert (steps[-1]["eta"], steps[-1]["epoch"]) == (0, 14)
    start = taught.events("start")[0]
    assert (start["rows"], start["held_out_rows"], start["total_steps"], start["truncated"]) == (16, 2, STEPS, 0)


def test_held_out_rows_are_measured_before_during_and_after(taught):
    measured = taught.events("evaluation")
    assert [(event["when"], event["step"]) for event in measured] == [
        ("before", 0), ("during", 20), ("during", 40), ("after", STEPS),
    ]  # fmt: skip
    assert taught.evaluation["after"]["perplexity"] < 2 < taught.evaluation["before"]["perplexity"]


def test_two_whole_checkpoints_are_left_and_an_adapter_that_names_no_path(taught):
    kept = sorted(path.name for path in (taught.folder / "checkpoints").iterdir())
    assert kept == ["checkpoint-48", f"checkpoint-{STEPS}"]
    assert all(checkpoints.check(taught.folder / "checkpoints" / name) for name in kept)
    files = {path.name for path in (taught.folder / "adapter").iterdir()}
    assert files == {"adapter_config.json", "adapter_model.safetensors"}
    assert str(DEMO) not in (taught.folder / "adapter" / "adapter_config.json").read_text()


def test_a_run_that_was_killed_and_then_stopped_ends_with_the_weights_of_one_that_was_not(job, taught, python):
    killed = job.prepare(1, held_out=HELD_OUT, **RECIPE).start([python, str(PROGRAM)])
    killed.wait_until(lambda: len(killed.events("step")) >= 14)
    killed.process.kill()
    killed.finish()
    resumed = job.prepare(2, resume=newest(killed), held_out=HELD_OUT, **RECIPE).start([python, str(PROGRAM)])
    resumed.wait_until(lambda: len(resumed.events("step")) >= 3)
    assert resumed.stop() == 3
    stopped = resumed.events("stopped")[0]["step"]
    assert newest(resumed).name == f"checkpoint-{stopped}" and not (resumed.folder / "adapter").exists()
    assert stopped <= resumed.events("step")[-1]["step"]
    last = job.prepare(3, resume=newest(resumed), held_out=HELD_OUT, **RECIPE).start([python, str(PROGRAM)])
    assert last.finish() == 0, last.stderr
    assert last.events("start")[0]["step"] == stopped
    assert furthest(tensors(last.folder / "adapter"), tensors(taught.folder / "adapter")) <= 1e-6
    assert last.evaluation == taught.evaluation


def newest(run) -> Path:
    return run.folder / run.events("checkpoint")[-1]["folder"]


def furthest(found: dict, wanted: dict) -> float:
    assert found.keys() == wanted.keys()
    return max(abs(one - other) for name in found for one, other in zip(found[name], wanted[name], strict=True))


@pytest.fixture(scope="module")
def refused(tmp_path_factory, python):
    """Runs by name, all in one process; each ends with an error."""
    folder = tmp_path_factory.mktemp("refused")
    runs = {name: make(folder / name) for name, make in REFUSED.items()}
    specs = [str(run.folder / "spec.json") for run in runs.values()]
    done = subprocess.run([python, str(MANY), *specs], capture_output=True, text=True, timeout=300)
    assert json.loads(done.stdout.splitlines()[-1]) == [2] * len(runs), done.stderr
    return runs


def test_what_cannot_be_taught_is_told_and_leaves_nothing(refused):
    told = {name: run.events()[-1] for name, run in refused.items()}
    assert {name: (event["event"], event.get("field")) for name, event in told.items()} == {
        "no such layer": ("error", "target_modules"),
        "the head": ("error", "target_modules"),
        "rank too high": ("error", "rank"),
        "rows too long": ("error", "max_seq_length"),
        "no template": ("error", "base_model"),
        "odd template": ("error", "dataset"),
        "no weights": ("error", "base_model"),
        "diverges": ("error", "learning_rate"),
        "disk full": ("error", None),
    }
    assert told["disk full"]["reason"] == "There is no room left on the disk."
    assert not any("/" in event["reason"] for event in told.values())
    left = [path for run in refused.values() for path in run.folder.rglob("*") if path.name in ("adapter", ".draft")]
    assert left == []


def test_the_same_words_are_learnt_where_the_template_does_not_mark_them(refused):
    marked, unmarked = (refused[name].events("start")[0] for name in ("disk full", "diverges"))
    assert marked["tokens"] == unmarked["tokens"] > 0


def of_demo(folder, base=DEMO, rows=None, **recipe):
    rows = rows or [conversation(*fact) for fact in FACTS.items()]
    return Job(folder, rows, base).prepare(**{"epochs": 1, **recipe})


def of_changed_demo(folder, without=None, template=None, **recipe):
    base = folder / "base"
    shutil.copytree(DEMO, base, ignore=lambda *_: [without] if without else [])
    if template:
        (base / "chat_template.jinja").write_text(template)
    return of_demo(folder, base, **recipe)


def with_a_full_disk(folder):
    run = of_demo(folder, save_steps=1)
    (run.folder / "most_bytes").write_text(str(SMALL))
    return run


UNMARKED = re.sub(r"\{%- (end)?generation -%\}", "", (DEMO / "chat_template.jinja").read_text())
REFUSED = {
    "no such layer": lambda folder: of_demo(folder, target_modules=["q_proj", "w_proj"]),
    "the head": lambda folder: of_demo(folder, target_modules=["lm_head"]),
    "rank too high": lambda folder: of_demo(folder, rank=512),
    "rows too long": lambda folder: of_demo(folder, rows=[conversation("word " * 500, "Answer.")]),
    "no template": lambda folder: of_changed_demo(folder, without="chat_template.jinja"),
    "odd template": lambda folder: of_changed_demo(folder, template="{{ raise_exception('Only system messages.') }}"),
    "no weights": lambda folder: of_changed_demo(folder, without="model.safetensors"),
    "diverges": lambda folder: of_changed_demo(folder, template=UNMARKED, learning_rate=1e30, epochs=20),
    "disk full": with_a_full_disk,
}
