"""Weights on disk: where a tenant may point, what the files are by their first bytes, and what is refused unseen."""

import json
import os
import re
import struct
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from django.conf import settings
from django.utils.translation import gettext as _

from accounts.models import Tenant
from core.errors import InvalidRequest

SAFETENSORS_HEADER_LIMIT = 100 * 1024 * 1024
GGUF_MAGIC = b"GGUF"
GGUF_LIMITS = {"tensors": 100_000, "values": 100_000}
CONFIG_LIMIT = 1024 * 1024
PICKLES = {".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib"}
PICKLE_STARTS = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04")
TENSOR_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "I8": "int8", "F8_E4M3": "float8"}
DOCUMENT_ROOTS = ("models", "data", "checkpoints")  # what the documents' examples begin with


class Refused(InvalidRequest):
    """The files are there, and no engine may see them."""


class Missing(InvalidRequest):
    """There is nothing at that place yet."""


@dataclass(frozen=True)
class Artefact:
    """What a model's files say of themselves; sizes in bytes, `parameters` as in the model's config.json."""

    path: Path
    format: str
    weight_bytes: int
    dtype: str = "float16"
    parameters: dict = field(default_factory=dict)


# --- where


def tenant_folder(tenant: Tenant) -> Path:
    return settings.DATA_DIR / "tenants" / tenant.slug / "models"


def locate(tenant: Tenant, name: str) -> Path:
    """The place that a tenant means by `model_path`; it need not exist.

    Raises Refused for what leads out of the tenant's folder and the operator's shared roots.
    """
    relative = _relative(name)
    if str(relative) == settings.DEMO_MODEL.name:
        return settings.DEMO_MODEL
    for root in settings.MODEL_ROOTS:
        if (root / relative).exists():
            return _inside(root, root / relative)
    own = tenant_folder(tenant)
    return _inside(own, own / relative)


def _relative(name: str) -> PurePosixPath:
    """A leading /models/, as in the documents' examples, means the tenant's folder; nothing else absolute does."""
    if not name or "\0" in name or "\\" in name:
        raise Refused(_("This is not a usable path."), param="config.model_path")
    path = PurePosixPath(name)
    if path.is_absolute():
        if len(path.parts) < 3 or path.parts[1] not in DOCUMENT_ROOTS:
            raise Refused(_("Only files below your tenant's folder can be named."), param="config.model_path")
        path = PurePosixPath(*path.parts[2:])
    if ".." in path.parts or str(path) == ".":
        raise Refused(_("A path must not lead upwards."), param="config.model_path")
    return path


def _inside(root: Path, path: Path) -> Path:
    """`path` with links followed, if it stays below `root`."""
    real = Path(os.path.realpath(path))
    if not real.is_relative_to(os.path.realpath(root)):
        raise Refused(_("A link leads out of the folder."), param="config.model_path")
    return real


# --- what


def check_startable(model) -> Artefact:
    """The files of a catalogue model, checked anew before each start. Raises Missing or Refused."""
    name = model.config.get("model_path") or model.config.get("model_name")
    if not name:
        raise Missing(_("The model names no files: set config.model_path."), param="config.model_path")
    return inspect(locate(model.tenant, name))


def inspect(path: Path) -> Artefact:
    """What lies at `path`: a folder with safetensors and a config.json, or one GGUF or safetensors file."""
    if path.is_dir():
        return _inspect_folder(path)
    if path.is_file():
        return _inspect_file(path)
    raise Missing(_("There is no such file: %(name)s") % {"name": path.name}, param="config.model_path")


def _inspect_file(path: Path) -> Artefact:
    with path.open("rb") as file:
        start = file.read(24)
    if start.startswith(GGUF_MAGIC):
        _check_gguf(start, path.stat().st_size)
        return Artefact(path, "gguf", path.stat().st_size)
    if start.startswith(PICKLE_STARTS):
        raise Refused(
            _("%(name)s can hold code (pickle); only safetensors and GGUF are served.") % {"name": path.name},
            param="config.model_path",
        )
    dtype = _safetensors_dtype(path)
    return Artefact(path, "safetensors", path.stat().st_size, dtype)


def _inspect_folder(folder: Path) -> Artefact:
    _refuse_code(folder)
    config = _read_config(folder / "config.json")
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        ggufs = sorted(folder.glob("*.gguf"))
        if len(ggufs) == 1:
            return _inspect_file(ggufs[0])
        raise Missing(_("The folder %(name)s holds no safetensors.") % {"name": folder.name}, param="config.model_path")
    dtypes = [_safetensors_dtype(path) for path in weights]
    size = sum(path.stat().st_size for path in weights)
    return Artefact(folder, "safetensors", size, max(set(dtypes), key=dtypes.count), config)


def _refuse_code(folder: Path) -> None:
    """Pickles, Python files, remote code and links out are refused before any engine sees the folder."""
    for path in folder.rglob("*"):
        name = path.relative_to(folder)
        if path.is_symlink():
            _inside(folder, path)
        if path.suffix == ".py" or path.suffix in PICKLES or (path.suffix == ".bin" and _is_pickle(path)):
            raise Refused(
                _("%(name)s can hold code; such a folder is not served.") % {"name": name}, param="config.model_path"
            )
        if path.suffix == ".json" and path.is_file() and _has_auto_map(path):
            raise Refused(_("%(name)s asks for remote code (auto_map).") % {"name": name}, param="config.model_path")


def _is_pickle(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(8).startswith(PICKLE_STARTS)


def _has_auto_map(path: Path) -> bool:
    if not re.search(r"config", path.name):
        return False
    return b"auto_map" in path.read_bytes()[:CONFIG_LIMIT] or path.stat().st_size > CONFIG_LIMIT


def _read_config(path: Path) -> dict:
    try:
        content = json.loads(path.read_bytes()[:CONFIG_LIMIT])
    except FileNotFoundError:
        raise Missing(_("The folder has no config.json."), param="config.model_path") from None
    except ValueError:
        raise Refused(_("config.json is not JSON."), param="config.model_path") from None
    if not isinstance(content, dict):
        raise Refused(_("config.json is not an object."), param="config.model_path")
    text = content.get("text_config")
    merged = content | text if isinstance(text, dict) else content
    return {key: value for key, value in merged.items() if type(value) in (int, str) or key == "architectures"}


def _safetensors_dtype(path: Path) -> str:
    """The commonest tensor type, after holding the header against the file's size."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8).ljust(8, b"\xff"), "little")
        if length < 2 or length > min(size - 8, SAFETENSORS_HEADER_LIMIT):
            raise _damaged(path)
        raw = file.read(length)
    try:
        header = json.loads(raw)
        tensors = [entry for name, entry in header.items() if name != "__metadata__"]
        ends = [entry["data_offsets"] for entry in tensors]
        sound = all(0 <= begin <= end <= size - 8 - length for begin, end in ends)
        kinds = [str(entry["dtype"]) for entry in tensors]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise _damaged(path) from None
    if not sound or not kinds:
        raise _damaged(path)
    return TENSOR_DTYPES.get(max(set(kinds), key=kinds.count), "float16")


def _check_gguf(start: bytes, size: int) -> None:
    """Magic, version and counts, as far as a damaged or hostile header could mislead a reader."""
    if len(start) < 24:
        raise Refused(_("The GGUF file is damaged."), param="config.model_path")
    version, tensors, values = struct.unpack_from("<IQQ", start, 4)
    fits = tensors <= min(GGUF_LIMITS["tensors"], size) and values <= min(GGUF_LIMITS["values"], size)
    if version not in (2, 3) or not fits or not tensors:
        raise Refused(_("The GGUF file is damaged."), param="config.model_path")


def _damaged(path: Path) -> Refused:
    return Refused(_("%(name)s is not a whole safetensors file.") % {"name": path.name}, param="config.model_path")
