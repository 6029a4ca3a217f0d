"""Atomic checkpoints: written to a draft folder, described by a manifest, synced, renamed.

checkpoints/checkpoint-20/manifest.json    {"step": 20, "files": {"optimizer.pt": {"size": …, "sha256": "…"}, …}}
"""

import hashlib
import json
import os
import re
import shutil
from pathlib import Path

MANIFEST = "manifest.json"
MAX_KEPT = 2
DRAFT = ".draft"  # an incomplete folder, beside the complete ones
NAME = re.compile(r"checkpoint-(\d+)")


class DamagedCheckpoint(Exception):
    """A checkpoint that must not be resumed from; the message says what is wrong with it."""


def name_of(step: int) -> str:
    return f"checkpoint-{step}"


def save_checkpoint(draft: Path, folder: Path, step: int) -> Path:
    """Turns `draft` into the checkpoint of `step` in `folder`, and removes all but the newest ones."""
    (draft / MANIFEST).write_text(json.dumps({"step": step, "files": _describe_files(draft)}, indent=1))
    target = folder / name_of(step)
    publish(draft, target)
    for old in _by_step(folder)[:-MAX_KEPT]:
        shutil.rmtree(old)
    return target


def publish(draft: Path, target: Path) -> None:
    """Renames a complete folder into place, so that it survives a power loss."""
    for path in _files(draft):
        _sync(path)
    _sync(draft)
    draft.rename(target)
    _sync(target.parent)


def check(folder: Path) -> dict:
    """Returns the manifest if all files match it. Raises DamagedCheckpoint."""
    try:
        if any(path.is_symlink() for path in folder.rglob("*")):
            raise DamagedCheckpoint(f"{folder.name} leads elsewhere.")
        manifest = json.loads((folder / MANIFEST).read_text())
        found = _describe_files(folder)
    except (OSError, ValueError) as error:
        raise DamagedCheckpoint(f"{folder.name} cannot be read ({type(error).__name__}).") from None
    wanted = manifest.get("files") if isinstance(manifest, dict) else None
    if not wanted or not isinstance(manifest.get("step"), int):
        raise DamagedCheckpoint(f"{folder.name} has no proper manifest.")
    if found != wanted:
        wrong = sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name))
        raise DamagedCheckpoint(f"{folder.name}: {wrong[0]} is not as the manifest says.")
    return manifest


def _describe_files(folder: Path) -> dict[str, dict]:
    return {
        str(path.relative_to(folder)): {"size": path.stat().st_size, "sha256": _digest(path)}
        for path in _files(folder)
        if path.name != MANIFEST
    }


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _by_step(folder: Path) -> list[Path]:
    found = {int(match[1]): path for path in folder.iterdir() if (match := NAME.fullmatch(path.name))}
    return [found[step] for step in sorted(found)]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
