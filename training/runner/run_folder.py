"""A run's folder: made before the launch, with the trainer's input, and removed when it is no longer needed.

Everything here is file work that may be slow: it takes plain values and reads no database.
"""

import logging
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

from node_agent.shim.records import write_atomically
from training.datasets import storage
from training.runner import checkpoints
from training.trainer.spec import TrainingSpec

logger = logging.getLogger(__name__)

RESUME = "resume"
MAX_TEXT = 8000  # characters of a sample that are shown


@dataclass(frozen=True)
class RunSetup:
    """The input for making a run's folder. `checkpoints` are those of the job's row, newest last."""

    job_id: str
    job_folder: Path
    generation: int
    spec: TrainingSpec
    checkpoints: list[dict]

    @property
    def folder(self) -> Path:
        return storage.generation_folder(self.job_folder, self.generation)


def prepare_folder(plan: RunSetup) -> int | None:
    """Makes the run's folder, replacing an old one. Returns the step to resume from, None to start at the beginning.

    Raises OSError, and then leaves nothing.
    """
    shutil.rmtree(plan.folder, ignore_errors=True)
    try:
        plan.folder.mkdir(mode=0o700, parents=True)
        resume = plan.folder / RESUME
        step = checkpoints.copy_newest(plan.job_id, plan.checkpoints, plan.job_folder, resume)
        content = asdict(plan.spec) | {
            "held_out": sorted(plan.spec.held_out),
            "resume": None if step is None else RESUME,
        }
        write_atomically(plan.folder / "spec.json", content)
    except OSError:
        shutil.rmtree(plan.folder, ignore_errors=True)
        raise
    return step


def read_evaluation(folder: Path) -> dict | None:
    """The trainer's evaluation, None if it cannot be read."""
    try:
        content = orjson.loads((folder / "evaluation.json").read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return None
    return _clean(content) if isinstance(content, dict) else None


def _clean(value):
    """Rows and answers may contain anything: no column takes a NUL, and long texts are cut."""
    if isinstance(value, str):
        return value[:MAX_TEXT].replace("\0", "\ufffd")
    if isinstance(value, list):
        return [_clean(item) for item in value]
    if isinstance(value, dict):
        return {_clean(name): _clean(item) for name, item in value.items()}
    return value


def remove_old_runs(job_folder: Path, running: int | None, kept: list[dict]) -> None:
    """Removes all runs except the running one; the checkpoints in `kept` stay."""
    wanted = {storage.generation_folder(job_folder, each["generation"]) / each["folder"] for each in kept}
    current = None if running is None else storage.generation_folder(job_folder, running)
    try:
        for run in storage.generation_folders(job_folder):
            if run != current:
                _remove_unwanted(run, wanted)
    except OSError as error:  # a later call removes the rest, at the latest when the job is deleted
        logger.warning("%s is not tidied: %s", job_folder.name, error)


def _remove_unwanted(folder: Path, wanted: set[Path]) -> None:
    """Keeps only the wanted paths and their parent folders."""
    for path in folder.iterdir():
        if path in wanted:
            continue
        if path.is_dir() and not path.is_symlink():
            _remove_unwanted(path, wanted)
        else:
            path.unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()
