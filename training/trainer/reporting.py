"""The trainer's callback: it reports each step, saves checkpoints and obeys a stop."""

import json
import math
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

import checkpoints
from failures import TrainingRefused
from progress import ProgressJournal
from stopping import Stop
from transformers import TrainerCallback

BEFORE = "before.json"  # in a checkpoint: the evaluation before the first step
# All that a resumed training needs; other files of transformers are removed.
SAVED = {
    "adapter_model.safetensors", "adapter_config.json", "optimizer.pt", "scheduler.pt", "rng_state.pth",
    "trainer_state.json", BEFORE,
}  # fmt: skip


@dataclass
class Pace:
    """Measures the time in steps, without the time between them."""

    began: float = field(default_factory=time.monotonic)
    step_began: float = 0.0
    steps: int = 0
    seconds: float = 0.0
    reported_seconds: float = 0.0
    reported_tokens: float = 0.0

    def step(self) -> None:
        self.seconds += time.monotonic() - self.step_began
        self.steps += 1

    def report(self, tokens: float, left: int) -> dict[str, float]:
        """`tokens` are those of all steps so far, learnt or not."""
        speed = (tokens - self.reported_tokens) / max(self.seconds - self.reported_seconds, 1e-9)
        self.reported_tokens, self.reported_seconds = tokens, self.seconds
        eta = left * self.seconds / max(self.steps, 1)
        elapsed = time.monotonic() - self.began
        return {"tokens_per_second": round(speed, 1), "elapsed": round(elapsed, 3), "eta": round(eta, 3)}


class Reporter(TrainerCallback):
    """`before` is saved in each checkpoint, so that a resumed run need not measure it again."""

    def __init__(self, folder: Path, journal: ProgressJournal, stop: Stop, before: dict | None):
        self.folder, self.journal, self.stop, self.before = folder, journal, stop, before
        self.pace = Pace()

    def on_train_begin(self, args, state, control, **_):
        self.stop.deferred = True

    def on_step_begin(self, args, state, control, **_):
        self.pace.step_began = time.monotonic()

    def on_step_end(self, args, state, control, **_):
        self.pace.step()
        self.stop.step = state.global_step
        control.should_evaluate = state.global_step % args.eval_steps == 0 and state.global_step < state.max_steps
        if self.stop.requested:
            control.should_save = control.should_training_stop = True

    def on_log(self, args, state, control, logs, **_):
        if "loss" not in logs:
            return
        loss, norm = float(logs["loss"]), float(logs["grad_norm"])
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise TrainingRefused("The loss is no number any more: lower the learning rate.", "learning_rate")
        self.journal.write_event(
            "step", state.global_step, total_steps=state.max_steps, epoch=round(state.epoch, 4), loss=loss,
            learning_rate=logs["learning_rate"], grad_norm=norm,
            **self.pace.report(logs["num_tokens"], state.max_steps - state.global_step),
        )  # fmt: skip

    def on_save(self, args, state, control, **_):
        draft = Path(args.output_dir) / checkpoints.name_of(state.global_step)
        (draft / BEFORE).write_text(json.dumps(self.before))
        for path in draft.iterdir():
            if path.name not in SAVED:
                path.unlink()
        kept = checkpoints.save_checkpoint(draft, self.folder / "checkpoints", state.global_step)
        self.journal.write_event("checkpoint", state.global_step, folder=f"checkpoints/{kept.name}")

    def on_train_end(self, args, state, control, **_):
        shutil.rmtree(args.output_dir)
