"""A run's folder: made before the launch, with what the trainer needs, and removed when nobody needs it any more.

Everything here is work on files, which may take its time: it gets plain values and asks no database.
"""

import logging
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

from node_agent.shim.records import write_atomically
from training.runner import checkpoints
from training.trainer.spec import Spec

logger = logging.getLogger(__name__)

RESUME = "resume"
LONGEST_TEXT = 8000  # characters of a sample that are shown


@dataclass(frozen=True)
class Plan:
    """What is needed to make a run's folder. `checkpoints` are those of the job's row, newest last."""

    job_id: str
    job_folder: Path
    generation: int
    spec: Spec
    checkpoints: list[dict]

    @property
    def folder(self) -> Path:
        return self.job_folder / f"gen-{self.generation}"


def prepare(plan: Plan) -> int | None:
    """Makes the folder of the run anew. Returns the step that it goes on from, None for the beginning.

    Raises OSError, and then nothing is left of it.
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


def evaluation(folder: Path) -> dict | None:
    """What the trainer measured, None where there is nothing that can be read."""
    try:
        content = orjson.loads((folder / "evaluation.json").read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return None
    return _fit_to_keep(content) if isinstance(content, dict) else None


def _fit_to_keep(value):
    """Rows and answers of a model hold what they like: no column takes a NUL, and nobody reads a text without end."""
    if isinstance(value, str):
        return value[:LONGEST_TEXT].replace("\0", "\ufffd")
    if isinstance(value, list):
        return [_fit_to_keep(each) for each in value]
    if isinstance(value, dict):
        return {_fit_to_keep(name): _fit_to_keep(each) for name, each in value.items()}
    return value


def tidy(job_folder: Path, running: int | None, kept: list[dict]) -> None:
    """Removes all runs but the running one; of each of the others these checkpoints stay."""
    wanted = {job_folder / f"gen-{checkpoint['generation']}" / checkpoint["folder"] for checkpoint in kept}
    try:
        for run in job_folder.glob("gen-*"):
            if run.name != f"gen-{running}":
                _thin(run, wanted)
    except OSError as error:  # what is left goes with a later call, or with the job
        logger.warning("%s is not tidied: %s", job_folder.name, error)


def _thin(folder: Path, wanted: set[Path]) -> None:
    """Only what is wanted, and the folders on the way to it."""
    for path in folder.iterdir():
        if path in wanted:
            continue
        if path.is_dir() and not path.is_symlink():
            _thin(path, wanted)
        else:
            path.unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()
