"""Which checkpoints may be gone on from: those that are as they were when the runner signed them.

A checkpoint holds pickles, so that whoever can change one runs code in the trainer. The signature is kept in the job's
row, and its key never reaches a trainer.
"""

import hashlib
import hmac
import json
import logging
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from django.conf import settings

from training.trainer.checkpoints import KEPT, Damaged, check

logger = logging.getLogger(__name__)

FOLDER = re.compile(r"checkpoints/checkpoint-\d{1,10}", re.ASCII)


def signed(job_id: str, generation: int, run: Path, name: str) -> dict | None:
    """What the job's row keeps of the checkpoint `name` of this run; None where it is not whole.

    The trainer keeps only the newest ones: one that it has removed meanwhile is as good as never made.
    """
    if not FOLDER.fullmatch(name):
        return None
    try:
        manifest = check(run / name)
    except Damaged as damage:
        logger.warning("%s: %s", job_id, damage)
        return None
    return {
        "generation": generation,
        "step": manifest["step"],
        "folder": name,
        "signature": _signature(job_id, manifest),
    }


def with_another(kept: list[dict], new: dict) -> list[dict]:
    """The newest ones, oldest first. What an earlier run has at the same step or beyond was fallen back from."""
    before = [each for each in kept if each["generation"] == new["generation"] or each["step"] < new["step"]]
    before = [each for each in before if (each["generation"], each["step"]) != (new["generation"], new["step"])]
    return [*before, new][-KEPT:]


def copy_newest(job_id: str, kept: list[dict], job_folder: Path, target: Path) -> int | None:
    """The newest checkpoint that is as it was signed, copied to `target` and checked there. Returns its step.

    None where there is none, and nothing is left at `target`. Raises OSError where the copy does not fit on the disk.
    """
    for checkpoint in reversed(kept):
        source = job_folder / f"gen-{checkpoint['generation']}" / checkpoint["folder"]
        try:
            _copy(source, target)
            _require_signature(job_id, checkpoint, check(target))
            return checkpoint["step"]
        except (FileNotFoundError, Damaged, shutil.SpecialFileError) as problem:
            logger.warning("%s: checkpoint of step %d is left out: %s", job_id, checkpoint["step"], problem)
            shutil.rmtree(target, ignore_errors=True)
    return None


def generations_of(kept: Iterable[dict]) -> set[int]:
    return {checkpoint["generation"] for checkpoint in kept}


def _copy(source: Path, target: Path) -> None:
    """Raises the first error as it is, not shutil's list of all."""
    target.mkdir(mode=0o700)
    for path in sorted(source.rglob("*")):
        beside = target / path.relative_to(source)
        if path.is_symlink():
            raise Damaged(f"{path.name} leads elsewhere.")
        if path.is_dir():
            beside.mkdir(mode=0o700)
        else:
            shutil.copyfile(path, beside, follow_symlinks=False)


def _require_signature(job_id: str, checkpoint: dict, manifest: dict) -> None:
    if not hmac.compare_digest(checkpoint["signature"], _signature(job_id, manifest)):
        raise Damaged("its manifest is not the one that was signed.")


def _signature(job_id: str, manifest: dict) -> str:
    text = json.dumps([job_id, manifest], sort_keys=True).encode()
    return hmac.digest(settings.CHECKPOINT_KEY, text, hashlib.sha256).hex()
