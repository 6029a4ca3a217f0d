"""The input of a run: `spec.json`, written by the runner, with paths and values that are already checked."""

import json
from dataclasses import dataclass
from math import ceil
from pathlib import Path

MAX_LOGGED_STEPS = 1000  # steps of one run: people look at the series
WARM_UP = 0.03  # of all steps


@dataclass(frozen=True)
class TrainerRecipe:
    """As training/jobs/recipe.py resolves it. No `target_modules` means all linear layers."""

    batch_size: int
    learning_rate: float
    epochs: int
    max_seq_length: int
    rank: int
    alpha: int
    dropout: float
    save_steps: int
    eval_steps: int
    seed: int
    target_modules: tuple[str, ...] = ()
    bias: str = "none"

    def total_steps(self, rows: int) -> int:
        return ceil(rows / self.batch_size) * self.epochs


@dataclass(frozen=True)
class TrainingSpec:
    """`held_out` are row numbers, from 0; `resume` is a folder below the run's own, or None."""

    job: str
    base: str
    dtype: str
    device: str
    threads: int
    data: str
    format: str
    held_out: frozenset[int]
    recipe: TrainerRecipe
    resume: str | None = None
    samples: int = 4


def load(path: Path) -> TrainingSpec:
    content = json.loads(path.read_text(encoding="utf-8"))
    recipe = content.pop("recipe")
    modules = tuple(recipe.pop("target_modules", None) or ())
    held_out = frozenset(content.pop("held_out"))
    return TrainingSpec(**content, held_out=held_out, recipe=TrainerRecipe(**recipe, target_modules=modules))


def warm_up_steps(total: int) -> int:
    return ceil(total * WARM_UP)


def log_interval(total: int) -> int:
    return max(1, total // MAX_LOGGED_STEPS)
