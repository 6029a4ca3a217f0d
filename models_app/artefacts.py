"""Weights on disk: where a tenant may point, what the files say of themselves, and what is refused unseen."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from django.conf import settings
from django.utils.translation import gettext as _

from accounts.models import Tenant
from core.errors import InvalidRequest
from models_app import formats, packaged_models
from models_app.models import Mode, Model

FIELD = "config.model_path"
DOCUMENT_ROOTS = ("models", "data", "checkpoints")  # what the documents' examples begin with
MOST_FILES = 10_000
CONFIG_LIMIT = 1024 * 1024
JSON_LIMIT = 64 * 1024 * 1024  # a tokenizer.json of a large vocabulary has 33 MB
# Files that some loader would execute: Python's own, native libraries, pickles and formats that may hold them.
CODE_SUFFIXES = {
    ".py", ".pyc", ".pyo", ".pyd", ".so", ".dll", ".dylib", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib",
    ".dill", ".npy", ".npz", ".keras", ".h5",
}  # fmt: skip
PICKLE_STARTS = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04")
START_BYTES = 16
ENGINE_FORMATS = {"vllm": "safetensors", "llama.cpp": "gguf"}

# A parameter of config.json → the key of a GGUF below its architecture's name.
PARAMETERS = {
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "max_position_embeddings": "context_length",
    "vocab_size": "vocab_size",
}
HIGHEST_PARAMETER = 1_000_000_000


class Refused(InvalidRequest):
    """The files are there, and no engine may see them."""

    def __init__(self, message):
        super().__init__(message, param=FIELD)


class Missing(InvalidRequest):
    """There is nothing at that place yet, or not all of it."""

    def __init__(self, message):
        super().__init__(message, param=FIELD)


@dataclass(frozen=True)
class Artefact:
    """What a model's files say of themselves: sizes in bytes, `parameters` by their names in config.json."""

    path: Path
    format: str
    weight_bytes: int
    dtype: str = "float16"
    parameters: dict = field(default_factory=dict)
    architectures: tuple[str, ...] = ()
    has_chat_template: bool = False
    adapter: Path | None = None
    pools: bool = False  # made for embeddings or ranking, by what its files say

    @property
    def mode(self) -> Mode:
        """What the model is for, as far as its architecture tells."""
        if any(name.endswith("ForSequenceClassification") for name in self.architectures):
            return Mode.RERANKER
        encoder = any(name.endswith("Model") and not name.endswith("HeadModel") for name in self.architectures)
        return Mode.EMBEDDING if encoder or self.pools else Mode.CHAT


# --- where


@dataclass(frozen=True)
class Place:
    """A path below a root that links must not leave."""

    root: Path
    path: Path


def tenant_folder(tenant: Tenant) -> Path:
    return settings.DATA_DIR / "tenants" / tenant.slug / "models"


def locate(tenant: Tenant, name: str) -> Path:
    """The place that a tenant means by a path or a hub id; it need not exist.

    The tenant's own folder goes before the operator's shared roots. Raises Refused for what leads elsewhere.
    """
    return _place(tenant, name).path


def _place(tenant: Tenant, name: str) -> Place:
    relative = below_root(name)
    own = tenant_folder(tenant)
    roots = [own, *settings.MODEL_ROOTS]
    if str(relative) == settings.DEMO_MODEL.name:
        roots.append(settings.DEMO_MODEL.parent)
    by_default = packaged_models.root() if str(relative) in packaged_models.PACKAGED else own
    root = next((root for root in roots if os.path.lexists(root / relative)), by_default)
    return Place(root, _inside(root, root / relative))


def below_root(name: str) -> PurePosixPath:
    """A leading /models/, as in the documents' examples, means the tenant's folder; nothing else absolute does.

    Raises Refused.
    """
    if not name.isprintable() or "\\" in name or any(len(part.encode()) > 255 for part in name.split("/")):
        raise Refused(_("This is not a usable path."))
    path = PurePosixPath(name)
    if path.is_absolute():
        if len(path.parts) < 3 or path.parts[1] not in DOCUMENT_ROOTS:
            raise Refused(_("Only files below your tenant's folder can be named."))
        path = PurePosixPath(*path.parts[2:])
    if ".." in path.parts or not path.parts:
        raise Refused(_("A path must not lead upwards."))
    return path


def _inside(root: Path, path: Path) -> Path:
    """`path` with links followed, if it stays below `root`."""
    real = Path(os.path.realpath(path))
    if not real.is_relative_to(os.path.realpath(root)):
        raise Refused(_("A link leads out of the folder."))
    return real


# --- what


def check_startable(model: Model) -> Artefact:
    """The files of a catalogue model, checked anew before each start. Raises Missing or Refused."""
    name = model.config.get("model_path") or model.config.get("model_name")
    if not name:
        raise Missing(_("The model names no files: set config.model_path."))
    place = _place(model.tenant, name)
    artefact = _to_be_fetched(place.path) or inspect(place.path, place.root)
    if artefact.format != ENGINE_FORMATS[model.framework]:
        raise Refused(
            _("%(engine)s serves %(wanted)s here, and this is %(found)s.")
            % {"engine": model.framework, "wanted": ENGINE_FORMATS[model.framework], "found": artefact.format}
        )
    if model.framework == "vllm" and artefact.path.is_file():
        raise Refused(_("vLLM needs the folder with the weights, their config.json and their tokenizer."))
    return _with_adapter(artefact, model)


def _to_be_fetched(path: Path) -> Artefact | None:
    """A packaged model whose files the machine does not have yet, by what is known of it."""
    model = None if path.exists() else packaged_models.at(path)
    if model is None:
        return None
    return Artefact(
        path, "safetensors", model.weight_bytes, model.dtype, model.parameters, model.architectures, pools=True
    )


def _with_adapter(artefact: Artefact, model: Model) -> Artefact:
    """With the adapter that the model is always served with, if it names one; its bytes count as weights."""
    name = model.config.get("lora_path")
    if not name:
        return artefact
    place = _place(model.tenant, name)
    adapter = inspect(place.path, place.root)
    if adapter.format != "gguf":
        raise Refused(_("%(name)s is no GGUF file.") % {"name": place.path.name})
    if "," in str(adapter.path):  # the engine would read it as the names of two files
        raise Refused(_("This is not a usable path."))
    return replace(artefact, adapter=adapter.path, weight_bytes=artefact.weight_bytes + adapter.weight_bytes)


def inspect(path: Path, root: Path | None = None) -> Artefact:
    """What lies at `path`: a folder with weights and a config.json, or one GGUF or safetensors file.

    Links may lead anywhere below `root`, by default `path` itself. Raises Missing or Refused.
    """
    try:
        if path.is_dir():
            return _inspect_folder(path, root or path)
        if path.is_file():
            return _inspect_file(path)
    except OSError as error:
        raise Refused(_("%(name)s cannot be read (%(why)s).") % {"name": path.name, "why": error.strerror}) from None
    raise Missing(_("There is no such file yet: %(name)s") % {"name": path.name})


def _inspect_file(path: Path) -> Artefact:
    start = _start_of(path)
    if formats.is_gguf(start):
        return _gguf_artefact(path)
    if start.startswith(PICKLE_STARTS):
        raise _holds_code(path.name)
    weights = _read(formats.read_safetensors, path)
    return Artefact(path, "safetensors", weights.bytes, weights.dtype)


def _inspect_folder(folder: Path, root: Path) -> Artefact:
    _refuse_code(folder, root)
    shards = sorted(folder.glob("*.safetensors"))
    if shards:
        return _safetensors_artefact(folder, shards)
    ggufs = sorted(folder.glob("*.gguf"))
    if len(ggufs) == 1:
        return _gguf_artefact(ggufs[0])
    if ggufs:
        raise Refused(_("The folder %(name)s holds several GGUF files: name one of them.") % {"name": folder.name})
    raise Missing(_("The folder %(name)s holds no weights (safetensors or GGUF).") % {"name": folder.name})


def _safetensors_artefact(folder: Path, shards: list[Path]) -> Artefact:
    _require_all_shards(folder, {shard.name for shard in shards})
    config = _read_object(folder / "config.json")
    found = [_read(formats.read_safetensors, shard) for shard in shards]
    largest = max(found, key=lambda weights: weights.bytes)
    names = config.get("architectures")
    return Artefact(
        folder, "safetensors", sum(weights.bytes for weights in found), largest.dtype, _parameters(config),
        tuple(name for name in names if isinstance(name, str)) if isinstance(names, list) else (),
        has_chat_template=_has_chat_template(folder), pools=(folder / "modules.json").exists(),
    )  # fmt: skip


def _require_all_shards(folder: Path, present: set[str]) -> None:
    """An interrupted download shows in the index of the weights."""
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return
    shards = _read_object(index, JSON_LIMIT).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
        raise Refused(_("%(name)s is damaged: %(why)s.") % {"name": index.name, "why": "weight_map"})
    if lacking := sorted(set(shards.values()) - present):
        raise Missing(_("Weights are missing: %(name)s") % {"name": lacking[0][:200]})


def _gguf_artefact(path: Path) -> Artefact:
    weights = _read(formats.read_gguf, path)
    metadata = weights.metadata
    architecture = str(metadata.get("general.architecture"))
    values = {name: metadata.get(f"{architecture}.{key}") for name, key in PARAMETERS.items()}
    values["vocab_size"] = values["vocab_size"] or _length(metadata.get("tokenizer.ggml.tokens"))
    return Artefact(
        path, "gguf", weights.bytes, weights.dtype, _parameters(values), (architecture,),
        has_chat_template="tokenizer.chat_template" in metadata, pools=f"{architecture}.pooling_type" in metadata,
    )  # fmt: skip


def _length(array: list | int | None) -> int | None:
    """The reader keeps of long arrays their length only."""
    return len(array) if isinstance(array, list) else array


def _parameters(values: dict) -> dict[str, int]:
    """Sizes that estimates are made of. Models of several parts keep the language model's under text_config."""
    text = values.get("text_config")
    merged = values | text if isinstance(text, dict) else values
    return {name: _parameter(name, merged[name]) for name in PARAMETERS if merged.get(name) is not None}


def _parameter(name: str, value) -> int:
    """Some models have a value for each layer: the highest counts."""
    numbers = value if isinstance(value, list) and value else [value]
    if not all(type(number) is int and 0 < number <= HIGHEST_PARAMETER for number in numbers):
        raise Refused(_("The model's own %(name)s is impossible.") % {"name": name})
    return max(numbers)


def _has_chat_template(folder: Path) -> bool:
    if any((folder / name).exists() for name in ("chat_template.jinja", "chat_template.json")):
        return True
    tokenizer = folder / "tokenizer_config.json"
    return tokenizer.exists() and bool(_read_object(tokenizer, JSON_LIMIT).get("chat_template"))


def _read(reader, path: Path) -> formats.Weights:
    try:
        return reader(path)
    except formats.Damaged as why:
        raise Refused(_("%(name)s is damaged: %(why)s.") % {"name": path.name, "why": why}) from None


# --- code in the folder


def _refuse_code(folder: Path, root: Path) -> None:
    """Pickles, programs, requests for remote code and links out are refused before any engine sees the folder."""
    for path in _files(folder, root):
        name = path.relative_to(folder)
        if path.suffix.lower() in CODE_SUFFIXES or _may_hold_pickle(path):
            raise _holds_code(str(name))
        if path.suffix.lower() == ".json" and _asks_for_code(path):
            raise Refused(_("%(name)s asks for code from elsewhere (auto_map).") % {"name": name})


def _files(folder: Path, root: Path) -> Iterator[Path]:
    """Every file below `folder`. Raises Refused for links out, linked folders, and what is no plain file."""
    number = 0
    for parent, folders, names in os.walk(folder, onerror=_reraise):
        paths = [Path(parent, name) for name in names]
        if any(Path(parent, name).is_symlink() for name in folders):
            raise Refused(_("The folder holds a link to another folder."))
        number += len(paths)
        if number > MOST_FILES:
            raise Refused(_("The folder holds more than %(most)d files.") % {"most": MOST_FILES})
        for path in paths:
            if not _inside(root, path).is_file():
                raise Refused(_("%(name)s is not a plain file.") % {"name": path.name})
            yield path


def _reraise(error: OSError) -> None:
    raise error


def _may_hold_pickle(path: Path) -> bool:
    """By the first bytes; a .bin without any that are known may be a pickle of the oldest kind."""
    start = _start_of(path)
    if path.suffix.lower() == ".bin":
        return not (formats.is_gguf(start) or formats.looks_like_safetensors(start))
    return start.startswith(PICKLE_STARTS)


def _asks_for_code(path: Path) -> bool:
    content = path.read_bytes() if path.stat().st_size <= JSON_LIMIT else b""
    if content and b"auto_map" not in content and b"\\u" not in content:
        return False
    try:
        return _names_auto_map(json.loads(content))
    except (ValueError, RecursionError):
        raise Refused(_("%(name)s is not JSON, or too large.") % {"name": path.name}) from None


def _names_auto_map(content) -> bool:
    """In a vocabulary the word may occur, as the name of a number."""
    if isinstance(content, list):
        return any(_names_auto_map(value) for value in content)
    if not isinstance(content, dict):
        return False
    return any(
        (key == "auto_map" and type(value) is not int) or _names_auto_map(value) for key, value in content.items()
    )


def _holds_code(name: str) -> Refused:
    return Refused(_("%(name)s can hold code; only safetensors and GGUF are served.") % {"name": name})


def _start_of(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(START_BYTES)


def _read_object(path: Path, limit: int = CONFIG_LIMIT) -> dict:
    try:
        with path.open("rb") as file:
            content = json.loads(file.read(limit))
    except FileNotFoundError:
        raise Missing(_("The folder has no %(name)s.") % {"name": path.name}) from None
    except (ValueError, RecursionError):
        raise Refused(_("%(name)s is not JSON, or too large.") % {"name": path.name}) from None
    if not isinstance(content, dict):
        raise Refused(_("%(name)s is not a JSON object.") % {"name": path.name})
    return content
