"""Signs checkpoints, and lets runs resume only from those that have not changed since.

A checkpoint contains pickles: a process that can change one can run code in the trainer. The signature is stored in the
job's row, and its key never reaches a trainer.
"""

import hashlib
import hmac
import json
import logging
import re
import shutil
from pathlib import Path

from django.conf import settings

from training.datasets import storage
from training.trainer.checkpoints import MAX_KEPT, DamagedCheckpoint, check

logger = logging.getLogger(__name__)

FOLDER_PATTERN = re.compile(r"checkpoints/checkpoint-\d{1,10}", re.ASCII)


def sign(job_id: str, generation: int, run: Path, name: str) -> dict | None:
    """The job row's entry for the checkpoint `name` of this run; None if it is not complete.

    The trainer keeps only the newest ones: None also for one that it has removed meanwhile.
    """
    if not FOLDER_PATTERN.fullmatch(name):
        return None
    try:
        manifest = check(run / name)
    except DamagedCheckpoint as damage:
        logger.warning("%s: %s", job_id, damage)
        return None
    return {
        "generation": generation,
        "step": manifest["step"],
        "folder": name,
        "signature": _signature(job_id, manifest),
    }


def add_entry(kept: list[dict], new: dict) -> list[dict]:
    """The newest ones, oldest first. Drops those of earlier runs at this step or later: their run was abandoned."""
    older = [entry for entry in kept if entry["generation"] == new["generation"] or entry["step"] < new["step"]]
    older = [entry for entry in older if (entry["generation"], entry["step"]) != (new["generation"], new["step"])]
    return [*older, new][-MAX_KEPT:]


def copy_newest(job_id: str, kept: list[dict], job_folder: Path, target: Path) -> int | None:
    """Copies the newest unchanged checkpoint to `target` and checks it there. Returns its step.

    If there is none, returns None and leaves nothing at `target`. Raises OSError if the copy does not fit on the disk.
    """
    for checkpoint in reversed(kept):
        source = storage.generation_folder(job_folder, checkpoint["generation"]) / checkpoint["folder"]
        try:
            _copy(source, target)
            _require_signature(job_id, checkpoint, check(target))
            return checkpoint["step"]
        except (FileNotFoundError, DamagedCheckpoint, shutil.SpecialFileError) as problem:
            logger.warning("%s: checkpoint of step %d is left out: %s", job_id, checkpoint["step"], problem)
            shutil.rmtree(target, ignore_errors=True)
    return None


def _copy(source: Path, target: Path) -> None:
    """Raises the first error itself, not shutil's list of all."""
    target.mkdir(mode=0o700)
    for path in sorted(source.rglob("*")):
        copy = target / path.relative_to(source)
        if path.is_symlink():
            raise DamagedCheckpoint(f"{path.name} leads elsewhere.")
        if path.is_dir():
            copy.mkdir(mode=0o700)
        else:
            shutil.copyfile(path, copy, follow_symlinks=False)


def _require_signature(job_id: str, checkpoint: dict, manifest: dict) -> None:
    if not hmac.compare_digest(checkpoint["signature"], _signature(job_id, manifest)):
        raise DamagedCheckpoint("its manifest is not the one that was signed.")


def _signature(job_id: str, manifest: dict) -> str:
    text = json.dumps([job_id, manifest], sort_keys=True).encode()
    return hmac.digest(settings.CHECKPOINT_KEY, text, hashlib.sha256).hex()
