"""The trainer compared with plain TRL, with the same recipe on the demo model: losses and step times.

They alternate, each in its own process in the engine's environment, and on the CPU. A step's time is that from
one logged step to the next.
"""

import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

from benchmarks import CannotMeasure
from engines import install

COLUMNS = {
    "step_ms": "step ms",
    "whole_s": "whole run s",
    "cpu_s": "CPU s",
    "first_loss": "first loss",
    "last_loss": "last loss",
}
ROOT = Path(__file__).resolve().parents[1]
TRAINER, PLAIN = ROOT / "training" / "trainer", ROOT / "benchmarks" / "plain_trl.py"
BASE = ROOT / "demo" / "serai-demo"
ROWS, WARM_UP_STEPS, THREADS = 64, 10, 1
RECIPE = {
    "batch_size": 8, "learning_rate": 2e-3, "epochs": 27, "max_seq_length": 256, "rank": 16, "alpha": 16,
    "dropout": 0.05, "save_steps": 10_000, "eval_steps": 10_000, "seed": 42, "target_modules": [], "bias": "none",
}  # fmt: skip
STEPS = 216


def run(*, seconds: float, rounds: int, report: Callable[[str], None]) -> dict:
    """Medians over `rounds`; `seconds` has no meaning here. Raises CannotMeasure."""
    if not install.is_ready("vllm"):
        raise CannotMeasure("The trainer runs in vLLM's environment: manage.py engine install vllm.")
    found: dict[str, list[dict]] = {"serai": [], "plain TRL": []}
    for number in range(rounds):
        for name, train in (("serai", by_trainer), ("plain TRL", by_plain_trl)):
            report(f"{name}, round {number + 1} of {rounds}")
            found[name].append(_measure(train))
    rows = {name: _summary(runs) for name, runs in found.items()}
    return {
        "rounds": rounds,
        "cpus": os.cpu_count(),
        "steps": STEPS,
        "step_ms": {name: [run["step_ms"] for run in runs] for name, runs in found.items()},
        "scenarios": {"SFT with LoRA": rows},
        "ratios": {
            "step_to_plain": round(rows["serai"]["step_ms"] / rows["plain TRL"]["step_ms"], 3),
            "cpu_to_plain": round(rows["serai"]["cpu_s"] / rows["plain TRL"]["cpu_s"], 3),
            "greatest_loss_difference": max(
                greatest_difference(*pair) for pair in zip(found["serai"], found["plain TRL"], strict=True)
            ),
        },
    }


def by_trainer(python: str, folder: Path) -> list[dict]:
    _run_program([python, str(TRAINER), str(folder / "spec.json")])
    events = [json.loads(line) for line in (folder / "progress.jsonl").read_text().splitlines()]
    return [event for event in events if event["event"] == "step"]


def by_plain_trl(python: str, folder: Path) -> list[dict]:
    _run_program([python, str(PLAIN), str(folder / "spec.json"), str(folder / "steps.json")])
    return json.loads((folder / "steps.json").read_text())


def _measure(train: Callable[[str, Path], list[dict]]) -> dict:
    with tempfile.TemporaryDirectory(prefix="serai-bench-") as name:
        prepare(Path(name))
        begun, before = time.monotonic(), os.times()
        steps = train(str(install.environment_python("vllm")), Path(name))
        after = os.times()
        cpu = after.children_user + after.children_system - before.children_user - before.children_system
        return {"steps": steps, "step_ms": step_ms(steps), "whole_s": time.monotonic() - begun, "cpu_s": cpu}


def prepare(folder: Path) -> None:
    rows = [_row(f"What is the code of room {room}?", f"It is {room * 37 % 101}.") for room in range(ROWS)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = {
        "job": "bench", "base": str(BASE), "dtype": "float32", "device": "cpu", "threads": THREADS, "samples": 0,
        "data": str(folder / "rows.jsonl"), "format": "messages", "held_out": [], "recipe": RECIPE, "resume": None,
    }  # fmt: skip
    (folder / "spec.json").write_text(json.dumps(spec))


def _row(question: str, answer: str) -> dict:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def _run_program(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise CannotMeasure(f"A training ended with {done.returncode}: {done.stderr[-500:]}")


def greatest_difference(one: dict, other: dict) -> float:
    pairs = zip(one["steps"], other["steps"], strict=True)
    return max(abs(mine["loss"] - theirs["loss"]) for mine, theirs in pairs)


def step_ms(steps: list[dict]) -> float:
    """The median, without the first steps, which allocate memory."""
    times = [later["at"] - earlier["at"] for earlier, later in pairwise(steps[WARM_UP_STEPS:])]
    return 1000 * statistics.median(times)


def _summary(runs: list[dict]) -> dict:
    return {
        **{name: statistics.median(run[name] for run in runs) for name in ("step_ms", "whole_s", "cpu_s")},
        "first_loss": runs[0]["steps"][0]["loss"],
        "last_loss": runs[0]["steps"][-1]["loss"],
    }
