"""The files of adapter versions: what they must contain, and where they are stored."""

import hashlib
import json
import re
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings
from django.utils.translation import gettext as _

from core.errors import InvalidRequest
from models_app import formats
from models_app.models import AdapterVersion

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
REQUIRED, ALLOWED = {CONFIG, WEIGHTS}, {CONFIG, WEIGHTS, "README.md"}
MAX_CONFIG_BYTES = 1024 * 1024
MAX_RANK = 512
TENSOR = re.compile(r"(base_model\.model\.[\w.]+)\.lora_([AB])\.weight")
# PEFT features beyond plain LoRA, which no engine here serves: each must be absent, empty or false.
UNSUPPORTED = ("use_dora", "modules_to_save", "lora_bias", "layer_replication", "use_qalora", "trainable_token_indices")


class InvalidAdapter(InvalidRequest):
    """The files are unsafe, or no engine can serve them."""


@dataclass(frozen=True)
class AdapterFacts:
    """Facts from the files: the highest rank of a layer, bytes and SHA-256 of the weights."""

    rank: int
    size_bytes: int
    sha256: str


def folder_of(version: AdapterVersion) -> Path:
    return folder(version.tenant.slug, version.pk)


def folder(slug: str, version_id: str) -> Path:
    return settings.DATA_DIR / "tenants" / slug / "adapters" / version_id


def check(source: Path) -> AdapterFacts:
    """Raises InvalidAdapter with a message for the user, or OSError."""
    _require_plain_files(source)
    config = _read_config(source / CONFIG)
    rank = _rank_by_tensors(source / WEIGHTS)
    if rank > _rank_by_config(config):
        raise InvalidAdapter(_("The adapter's layers have a rank of %(rank)d, its config says less.") % {"rank": rank})
    return AdapterFacts(rank, (source / WEIGHTS).stat().st_size, _sha256(source / WEIGHTS))


def move(source: Path, target: Path, base_name: str) -> None:
    """Move to the final folder, readable by this user only. The config then names its base model instead of a path."""
    config = _read_config(source / CONFIG) | {"base_model_name_or_path": base_name}
    (source / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True))
    for path in source.iterdir():
        path.chmod(0o600)
    source.chmod(0o700)
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    source.rename(target)


def remove(version_folder: Path) -> None:
    shutil.rmtree(version_folder, ignore_errors=True)


def folders_older_than(seconds: float) -> list[Path]:
    """Version folders that are older than `seconds`, with or without a row."""
    before = time.time() - seconds
    folders = []
    for path in (settings.DATA_DIR / "tenants").glob("*/adapters/version-*"):
        with suppress(FileNotFoundError):
            if path.stat().st_ctime < before:
                folders.append(path)
    return folders


def _require_plain_files(source: Path) -> None:
    """Only the files of an adapter are allowed: no pickle, no program, no link."""
    if source.is_symlink() or not source.is_dir():
        raise InvalidAdapter(_("There is no adapter."))
    paths = {path.name: path for path in source.iterdir()}
    if missing := sorted(REQUIRED - paths.keys()):
        raise InvalidAdapter(_("The adapter has no %(name)s.") % {"name": missing[0]})
    for name, path in paths.items():
        if name not in ALLOWED or path.is_symlink() or not path.is_file():
            raise InvalidAdapter(
                _("The adapter's folder holds what is no part of it: %(name)s.") % {"name": name[:100]}
            )


def _read_config(path: Path) -> dict:
    try:
        config = json.loads(path.read_bytes()) if path.stat().st_size <= MAX_CONFIG_BYTES else None
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise InvalidAdapter(_("%(name)s is not JSON, or too large.") % {"name": CONFIG})
    return config


def _rank_by_config(config: dict) -> int:
    """The highest rank that the config allows a layer."""
    if config.get("peft_type") != "LORA" or config.get("bias", "none") != "none":
        raise InvalidAdapter(_("Only LoRA adapters without biases are served."))
    if used := [name for name in UNSUPPORTED if config.get(name)]:
        raise InvalidAdapter(_("No engine here serves adapters with %(name)s.") % {"name": used[0]})
    by_layer = config.get("rank_pattern") or {}
    ranks = [config.get("r"), *(by_layer.values() if isinstance(by_layer, dict) else [None])]
    if not all(type(rank) is int and 1 <= rank <= MAX_RANK for rank in ranks):
        raise InvalidAdapter(_("The adapter's rank must lie between 1 and %(most)d.") % {"most": MAX_RANK})
    return max(ranks)


def _rank_by_tensors(path: Path) -> int:
    """Every layer has two matrices; the rank is their inner dimension."""
    try:
        shapes = formats.read_shapes(path)
    except formats.DamagedWeights as error:
        raise InvalidAdapter(_("%(name)s is damaged: %(why)s.") % {"name": WEIGHTS, "why": error}) from None
    ranks: dict[str, dict[str, int]] = {}
    for name, shape in shapes.items():
        match = TENSOR.fullmatch(name)
        if match is None or len(shape) != 2:
            raise InvalidAdapter(_("The adapter holds what is no LoRA weight: %(name)s.") % {"name": name[:100]})
        ranks.setdefault(match[1], {})[match[2]] = shape[0 if match[2] == "A" else 1]
    for layer, sides in ranks.items():
        if sides.keys() != {"A", "B"} or sides["A"] != sides["B"] or not sides["A"]:
            raise InvalidAdapter(_("The adapter's matrices do not fit together: %(name)s.") % {"name": layer[:100]})
    return max(sides["A"] for sides in ranks.values())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
