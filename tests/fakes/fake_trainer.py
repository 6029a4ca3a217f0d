#!/usr/bin/env python3
"""A trainer with the real one's contract (docs/training.md) that takes milliseconds and produces every fault on demand.

    fake_trainer.py <folder>/spec.json

Standard library only; events, manifests and renames are the real trainer's modules. `Faults` come from the variable
FAKE_TRAINER (JSON), from `fake_trainer.json` in the base model's folder and from one beside the generations' folders;
later ones override earlier ones.
"""

import hashlib
import json
import os
import signal
import struct
import sys
import time
from dataclasses import dataclass, fields
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "training" / "trainer"))

import checkpoints
import conversation
import fake_encoder
import row_losses
import spec as specs
from progress import ProgressJournal

DONE, REFUSED, STOPPED = 0, 2, 3
STATE = "state.json"
FIRST_LOSS, LAST_LOSS = 4.0, 0.5


@dataclass(frozen=True)
class Faults:
    """Steps count from 1; a fault at a step happens after that step, before its event is written."""

    steps: int | None = None  # total; by default from rows, batch size and epochs
    step_seconds: float = 0.0
    start_seconds: float = 0.0  # until the first event
    refuse: dict | None = None  # {"reason", "field"}: an error instead of a start
    crash_at_step: int | None = None  # exit code 1
    kill_at_step: int | None = None  # SIGKILL to itself
    torn_line_at_step: int | None = None  # half a line, then SIGKILL
    hang_at_step: int | None = None  # without end; ignores SIGTERM
    disk_full_at_step: int | None = None
    truncated_checkpoint_at_step: int | None = None  # the reported checkpoint does not match its manifest
    deaf: bool = False  # continues after SIGTERM, as a zombie run does
    only_in_generation: int | None = None  # faults only there; elsewhere only steps and times apply

    def for_folder(self, folder: Path) -> "Faults":
        if self.only_in_generation is None or folder.name == f"gen-{self.only_in_generation}":
            return self
        return Faults(steps=self.steps, step_seconds=self.step_seconds, start_seconds=self.start_seconds)


def read_faults(folder: Path, base: Path) -> Faults:
    found = json.loads(os.environ.get("FAKE_TRAINER", "{}"))
    for path in (base / "fake_trainer.json", folder.parent / "fake_trainer.json"):
        if path.is_file():
            found |= json.loads(path.read_text())
    unknown = set(found) - {field.name for field in fields(Faults)}
    if unknown:
        raise SystemExit(f"FAKE_TRAINER: unknown {sorted(unknown)}")
    return Faults(**found).for_folder(folder)


class Trainer:
    def __init__(self, path: Path):
        self.folder, self.spec = path.parent, specs.load(path)
        self.recipe, self.journal = self.spec.recipe, ProgressJournal(path.parent / "progress.jsonl")
        self.faults = read_faults(self.folder, Path(self.spec.base))
        self.rows = [line for line in Path(self.spec.data).read_bytes().splitlines() if line.strip()]
        read = conversation.BY_FORM[self.spec.format]
        self.lessons = [read(json.loads(row)) for row in self.rows]
        self.truncated, self.left_out = self.row_losses()
        self.train_rows = len(set(range(len(self.rows))) - self.spec.held_out - self.left_out)
        self.total = self.faults.steps or self.recipe.total_steps(self.train_rows)
        self.step, self.weights, self.stopped = 0, "", False
        self.begun = time.monotonic()

    def run(self) -> int:
        signal.signal(signal.SIGTERM, self.on_sigterm)
        time.sleep(self.faults.start_seconds)
        if refusal := self.refusal():
            self.journal.write_event("error", 0, **refusal)
            return REFUSED
        self.resume()
        self.report_start()
        while self.step < self.total:
            self.train_step()
            if self.stopped:
                self.save()
                self.journal.write_event("stopped", self.step)
                return STOPPED
        return self.finish()

    def refusal(self) -> dict | None:
        if self.train_rows:
            return self.faults.refuse
        longest = self.recipe.max_seq_length
        return {"reason": f"No row has an answer within the first {longest} tokens.", "field": "max_seq_length"}

    def row_losses(self) -> tuple[int, frozenset[int]]:
        """How many rows lose their end, and the numbers of those of which nothing is learnt; a word is a token."""
        longest, cut, left_out = self.recipe.max_seq_length, 0, set()
        for number, lesson in enumerate(self.lessons):
            row = fake_encoder.encode(number, lesson)
            if not row.cut(longest).learnt_tokens:
                left_out.add(number)
            elif len(row.ids) > longest:
                cut += 1
        return cut, frozenset(left_out)

    def on_sigterm(self, _signum, _frame) -> None:
        self.stopped = not self.faults.deaf

    def resume(self) -> None:
        if self.spec.resume:
            checkpoints.check(self.folder / self.spec.resume)
            state = json.loads((self.folder / self.spec.resume / STATE).read_text())
            self.step, self.weights = state["step"], state["weights"]

    def report_start(self) -> None:
        held_out = len(self.spec.held_out)
        tokens = sum(len(row.split()) for row in self.rows)
        for sentence in row_losses.sentences(self.truncated, len(self.left_out), self.recipe.max_seq_length):
            print(sentence)
        counts = {
            "rows": self.train_rows, "held_out_rows": held_out, "tokens": tokens, "truncated": self.truncated,
            "left_out": len(self.left_out), "limit": self.recipe.max_seq_length,
        }  # fmt: skip
        self.journal.write_event("start", self.step, total_steps=self.total, **counts)
        if self.step == 0:
            self.measure("before")

    def train_step(self) -> None:
        time.sleep(self.faults.step_seconds)
        self.step += 1
        self.weights = hashlib.sha256(f"{self.recipe.seed}:{self.step}:{self.weights}".encode()).hexdigest()
        self.inject_faults()
        self.report_step()
        if self.step == self.total:
            self.save()
            self.measure("after")
        else:
            if self.step % self.recipe.eval_steps == 0:
                self.measure("during")
            if self.step % self.recipe.save_steps == 0 and not self.stopped:
                self.save()

    def inject_faults(self) -> None:
        faults, step = self.faults, self.step
        if step == faults.crash_at_step:
            raise RuntimeError(f"told to crash at step {step}")
        if step == faults.disk_full_at_step:
            self.journal.write_event("error", step, reason="The disk is full.")
            sys.exit(REFUSED)
        if step == faults.torn_line_at_step:
            with (self.folder / "progress.jsonl").open("a") as file:
                file.write(f'{{"event": "step", "step": {step}, "lo')
        if step in (faults.kill_at_step, faults.torn_line_at_step):
            os.kill(os.getpid(), signal.SIGKILL)
        if step == faults.hang_at_step:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            while True:
                time.sleep(3600)

    def loss(self) -> float:
        return FIRST_LOSS + (LAST_LOSS - FIRST_LOSS) * self.step / self.total

    def report_step(self) -> None:
        elapsed = time.monotonic() - self.begun
        self.journal.write_event(
            "step", self.step, total_steps=self.total, epoch=round(self.step * self.recipe.epochs / self.total, 4),
            loss=self.loss(), learning_rate=self.recipe.learning_rate * (1 - self.step / self.total), grad_norm=1.0,
            tokens_per_second=1000.0, elapsed=round(elapsed, 3),
            eta=round((self.total - self.step) * self.faults.step_seconds, 3),
        )  # fmt: skip

    def measured(self, loss: float) -> dict | None:
        return {"loss": loss, "perplexity": 2.718281828**loss} if self.spec.held_out else None

    def measure(self, when: str) -> None:
        if found := self.measured(self.loss()):
            self.journal.write_event("evaluation", self.step, when=when, **found)

    def save(self) -> None:
        folder = self.folder / "checkpoints"
        if (folder / checkpoints.name_of(self.step)).exists():
            return
        draft = folder / checkpoints.DRAFT
        draft.mkdir(parents=True)
        (draft / STATE).write_text(json.dumps({"step": self.step, "weights": self.weights}))
        self.write_adapter(draft)
        kept = checkpoints.save_checkpoint(draft, folder, self.step)
        if self.step == self.faults.truncated_checkpoint_at_step:
            os.truncate(kept / STATE, 5)
        self.journal.write_event("checkpoint", self.step, folder=f"checkpoints/{kept.name}")

    def finish(self) -> int:
        draft = self.folder / checkpoints.DRAFT
        draft.mkdir()
        self.write_adapter(draft)
        checkpoints.publish(draft, self.folder / "adapter")
        evaluation = {
            "before": self.measured(FIRST_LOSS), "after": self.measured(LAST_LOSS), "samples": list(self.samples()),
        }  # fmt: skip
        draft = self.folder / ".evaluation.json"
        draft.write_text(json.dumps(evaluation))
        draft.rename(self.folder / "evaluation.json")
        self.journal.write_event("done", self.step)
        return DONE

    def samples(self):
        chosen = [
            number for number in sorted(self.spec.held_out) or range(len(self.rows)) if number not in self.left_out
        ]
        for number in chosen[: self.spec.samples]:
            *prompt, answer = self.lessons[number].last_taught
            expected = answer["content"]
            yield {"prompt": prompt, "expected": expected, "before": "Nothing.", "after": expected}

    def write_adapter(self, folder: Path) -> None:
        """Both matrices of one layer; their numbers depend on all steps so far."""
        rank, number = self.recipe.rank, int(self.weights[:6] or "0", 16) / 2**24
        config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": self.recipe.alpha,
                  "target_modules": ["q_proj"], "bias": "none"}  # fmt: skip
        (folder / "adapter_config.json").write_text(json.dumps(config))
        layer = "base_model.model.model.layers.0.self_attn.q_proj"
        shapes = {f"{layer}.lora_A.weight": (rank, 4), f"{layer}.lora_B.weight": (4, rank)}
        (folder / "adapter_model.safetensors").write_bytes(safetensors(shapes, number))


def safetensors(shapes: dict[str, tuple[int, int]], number: float) -> bytes:
    """A file of 32-bit floats that are all the same."""
    header, data = {}, b""
    for name, (rows, columns) in shapes.items():
        values = struct.pack("<f", number) * rows * columns
        header[name] = {"dtype": "F32", "shape": [rows, columns], "data_offsets": [len(data), len(data) + len(values)]}
        data += values
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


if __name__ == "__main__":
    sys.exit(Trainer(Path(sys.argv[1]).resolve()).run())
