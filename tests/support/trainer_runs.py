"""Folders of training runs as the runner creates them, and the files that trainers write there."""

import json
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

FAKE = Path(__file__).resolve().parents[1] / "fakes" / "fake_trainer.py"
DEMO = Path(__file__).resolve().parents[2] / "demo" / "serai-demo"
RUN_TIMEOUT = 300
RECIPE = {
    "batch_size": 4, "learning_rate": 5e-3, "epochs": 3, "max_seq_length": 256, "rank": 8, "alpha": 16, "dropout": 0.05,
    "save_steps": 5, "eval_steps": 5, "seed": 42, "target_modules": [], "bias": "none",
}  # fmt: skip


def conversation(question: str, answer: str) -> dict:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def tensors(adapter: Path) -> dict[str, tuple[float, ...]]:
    """All numbers of an adapter by the name of the matrix; 32-bit floats only."""
    content = (adapter / "adapter_model.safetensors").read_bytes()
    (length,) = struct.unpack_from("<Q", content)
    header = json.loads(content[8 : 8 + length])
    header.pop("__metadata__", None)
    assert {entry["dtype"] for entry in header.values()} == {"F32"}
    data = content[8 + length :]
    spans = {name: entry["data_offsets"] for name, entry in header.items()}
    return {name: struct.unpack(f"<{(end - start) // 4}f", data[start:end]) for name, (start, end) in spans.items()}


@dataclass
class TrainerRun:
    """One generation of a job, and the process that trains it."""

    folder: Path
    process: subprocess.Popen | None = None
    stderr: str = ""

    def start(self, program: list[str], **options) -> "TrainerRun":
        command = [*program, str(self.folder / "spec.json")]
        self.process = subprocess.Popen(
            command, cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, **options
        )
        return self

    def finish(self) -> int:
        """Returns the exit code; the program's stderr is kept."""
        self.stderr = self.process.communicate(timeout=RUN_TIMEOUT)[1]
        return self.process.returncode

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.finish()

    def events(self, name: str | None = None) -> list[dict]:
        """Events of complete lines only, as a concurrent reader sees them."""
        path = self.folder / "progress.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        found = [json.loads(line) for line in lines if line.endswith("\n")]
        return [event for event in found if name in (None, event["event"])]

    def event_names(self) -> list[str]:
        return [event["event"] for event in self.events()]

    def wait_until(self, happened: Callable[[], bool]) -> None:
        deadline = time.monotonic() + RUN_TIMEOUT
        while not happened():
            assert self.process.poll() is None and time.monotonic() < deadline, self.event_names()
            time.sleep(0.01)

    @property
    def adapter(self) -> bytes:
        return (self.folder / "adapter" / "adapter_model.safetensors").read_bytes()

    @property
    def evaluation(self) -> dict:
        return json.loads((self.folder / "evaluation.json").read_text())


class Job:
    """A training job: its rows and the folders of its runs."""

    def __init__(self, folder: Path, rows: list[dict], base: Path = DEMO):
        self.folder, self.base = folder, base
        folder.mkdir(parents=True, exist_ok=True)
        self.data = folder / "rows.jsonl"
        self.data.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))

    def prepare(
        self, generation: int = 0, resume: Path | None = None, held_out=(), threads: int = 2, **recipe
    ) -> TrainerRun:
        """`resume` is a checkpoint of an earlier run."""
        folder = self.folder / f"gen-{generation}"
        folder.mkdir()
        if resume:
            (folder / "resume").mkdir()
            for path in resume.iterdir():
                (folder / "resume" / path.name).write_bytes(path.read_bytes())
        spec = {
            "job": "job-1", "base": str(self.base), "dtype": "float32", "device": "cpu", "threads": threads,
            "data": str(self.data), "format": "messages", "held_out": list(held_out), "recipe": RECIPE | recipe,
            "resume": "resume" if resume else None, "samples": 4,
        }  # fmt: skip
        (folder / "spec.json").write_text(json.dumps(spec))
        return TrainerRun(folder)

    def fake(self, generation: int = 0, faults: dict | None = None, **options) -> TrainerRun:
        (self.folder / "fake_trainer.json").write_text(json.dumps(faults or {}))
        return self.prepare(generation, **options).start([sys.executable, str(FAKE)])
