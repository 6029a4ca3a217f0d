"""Weights on disk: which paths a tenant may name, what the files contain, and what is refused without loading."""

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
EXAMPLE_ROOTS = ("models", "data", "checkpoints")  # first folder of the paths in the API specifications' examples
MAX_FILES = 10_000
MAX_CONFIG_BYTES = 1024 * 1024
MAX_JSON_BYTES = 64 * 1024 * 1024  # a tokenizer.json of a large vocabulary has 33 MB
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
MAX_PARAMETER = 1_000_000_000


class RefusedWeights(InvalidRequest):
    """The files exist, and no engine may load them."""

    def __init__(self, message):
        super().__init__(message, param=FIELD)


class MissingWeights(InvalidRequest):
    """The files do not exist yet, or some are missing."""

    def __init__(self, message):
        super().__init__(message, param=FIELD)


@dataclass(frozen=True)
class Artefact:
    """What a model's files contain: sizes in bytes, `parameters` by their names in config.json."""

    path: Path
    format: str
    weight_bytes: int
    dtype: str = "float16"
    parameters: dict = field(default_factory=dict)
    architectures: tuple[str, ...] = ()
    has_chat_template: bool = False
    adapter: Path | None = None
    is_pooling: bool = False  # for embeddings or ranking, according to its files

    @property
    def mode(self) -> Mode:
        """What the model is for, as far as its architecture shows."""
        if any(name.endswith("ForSequenceClassification") for name in self.architectures):
            return Mode.RERANKER
        encoder = any(name.endswith("Model") and not name.endswith("HeadModel") for name in self.architectures)
        return Mode.EMBEDDING if encoder or self.is_pooling else Mode.CHAT


# --- paths


@dataclass(frozen=True)
class RootedPath:
    """A path below a root; links must not lead out of the root."""

    root: Path
    path: Path


def tenant_folder(tenant: Tenant) -> Path:
    return settings.DATA_DIR / "tenants" / tenant.slug / "models"


def locate(tenant: Tenant, name: str) -> Path:
    """The path of a tenant's files, by a relative path or a hub id; it need not exist.

    The tenant's own folder has precedence over the operator's shared roots. Raises RefusedWeights for other paths.
    """
    return _locate(tenant, name).path


def _locate(tenant: Tenant, name: str) -> RootedPath:
    relative = below_root(name)
    own = tenant_folder(tenant)
    roots = [own, *settings.MODEL_ROOTS]
    if str(relative) == settings.DEMO_MODEL.name:
        roots.append(settings.DEMO_MODEL.parent)
    default_root = packaged_models.models_root() if str(relative) in packaged_models.PACKAGED else own
    root = next((root for root in roots if os.path.lexists(root / relative)), default_root)
    return RootedPath(root, _resolve_below(root, root / relative))


def below_root(name: str) -> PurePosixPath:
    """The path relative to a root. A leading /models/, /data/ or /checkpoints/ is dropped; no other root is allowed.

    Raises RefusedWeights.
    """
    if not name.isprintable() or "\\" in name or any(len(part.encode()) > 255 for part in name.split("/")):
        raise RefusedWeights(_("This is not a usable path."))
    path = PurePosixPath(name)
    if path.is_absolute():
        if len(path.parts) < 3 or path.parts[1] not in EXAMPLE_ROOTS:
            raise RefusedWeights(_("Only files below your tenant's folder can be named."))
        path = PurePosixPath(*path.parts[2:])
    if ".." in path.parts or not path.parts:
        raise RefusedWeights(_("A path must not lead upwards."))
    return path


def _resolve_below(root: Path, path: Path) -> Path:
    """`path` with links followed, if it stays below `root`."""
    real = Path(os.path.realpath(path))
    if not real.is_relative_to(os.path.realpath(root)):
        raise RefusedWeights(_("A link leads out of the folder."))
    return real


# --- contents


def check_startable(model: Model) -> Artefact:
    """The files of a catalogue model, checked before each start. Raises MissingWeights or RefusedWeights."""
    name = model.config.get("model_path") or model.config.get("model_name")
    if not name:
        raise MissingWeights(_("The model names no files: set config.model_path."))
    place = _locate(model.tenant, name)
    artefact = _packaged_artefact(place.path) or inspect(place.path, place.root)
    if artefact.format != ENGINE_FORMATS[model.framework]:
        raise RefusedWeights(
            _("%(engine)s serves %(wanted)s here, and this is %(found)s.")
            % {"engine": model.framework, "wanted": ENGINE_FORMATS[model.framework], "found": artefact.format}
        )
    if model.framework == "vllm" and artefact.path.is_file():
        raise RefusedWeights(_("vLLM needs the folder with the weights, their config.json and their tokenizer."))
    return _add_adapter(artefact, model)


def _packaged_artefact(path: Path) -> Artefact | None:
    """The known facts of a packaged model that is not downloaded yet, else None."""
    model = None if path.exists() else packaged_models.find_by_folder(path)
    if model is None:
        return None
    return Artefact(
        path, "safetensors", model.weight_bytes, model.dtype, model.parameters, model.architectures, is_pooling=True
    )


def _add_adapter(artefact: Artefact, model: Model) -> Artefact:
    """Add the adapter that the config applies to all requests, if any; its bytes count as weights."""
    name = model.config.get("lora_path")
    if not name:
        return artefact
    place = _locate(model.tenant, name)
    adapter = inspect(place.path, place.root)
    if adapter.format != "gguf":
        raise RefusedWeights(_("%(name)s is no GGUF file.") % {"name": place.path.name})
    if "," in str(adapter.path):  # the engine would read it as the names of two files
        raise RefusedWeights(_("This is not a usable path."))
    return replace(artefact, adapter=adapter.path, weight_bytes=artefact.weight_bytes + adapter.weight_bytes)


def inspect(path: Path, root: Path | None = None) -> Artefact:
    """The contents of `path`: a folder with weights and a config.json, or one GGUF or safetensors file.

    Links may point anywhere below `root`, by default `path` itself. Raises MissingWeights or RefusedWeights.
    """
    try:
        if path.is_dir():
            return _inspect_folder(path, root or path)
        if path.is_file():
            return _inspect_file(path)
    except OSError as error:
        raise RefusedWeights(
            _("%(name)s cannot be read (%(why)s).") % {"name": path.name, "why": error.strerror}
        ) from None
    raise MissingWeights(_("There is no such file yet: %(name)s") % {"name": path.name})


def _inspect_file(path: Path) -> Artefact:
    start = _start_of(path)
    if formats.is_gguf(start):
        return _gguf_artefact(path)
    if start.startswith(PICKLE_STARTS):
        raise _code_refusal(path.name)
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
        raise RefusedWeights(
            _("The folder %(name)s holds several GGUF files: name one of them.") % {"name": folder.name}
        )
    raise MissingWeights(_("The folder %(name)s holds no weights (safetensors or GGUF).") % {"name": folder.name})


def _safetensors_artefact(folder: Path, shards: list[Path]) -> Artefact:
    _require_all_shards(folder, {shard.name for shard in shards})
    config = _read_object(folder / "config.json")
    shard_weights = [_read(formats.read_safetensors, shard) for shard in shards]
    largest = max(shard_weights, key=lambda weights: weights.bytes)
    names = config.get("architectures")
    return Artefact(
        folder, "safetensors", sum(weights.bytes for weights in shard_weights), largest.dtype, _parameters(config),
        tuple(name for name in names if isinstance(name, str)) if isinstance(names, list) else (),
        has_chat_template=_has_chat_template(folder), is_pooling=(folder / "modules.json").exists(),
    )  # fmt: skip


def _require_all_shards(folder: Path, present: set[str]) -> None:
    """Finds an interrupted download by the index of the weights. Raises MissingWeights."""
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return
    shards = _read_object(index, MAX_JSON_BYTES).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
        raise RefusedWeights(_("%(name)s is damaged: %(why)s.") % {"name": index.name, "why": "weight_map"})
    if missing := sorted(set(shards.values()) - present):
        raise MissingWeights(_("Weights are missing: %(name)s") % {"name": missing[0][:200]})


def _gguf_artefact(path: Path) -> Artefact:
    weights = _read(formats.read_gguf, path)
    metadata = weights.metadata
    architecture = str(metadata.get("general.architecture"))
    values = {name: metadata.get(f"{architecture}.{key}") for name, key in PARAMETERS.items()}
    values["vocab_size"] = values["vocab_size"] or _array_length(metadata.get("tokenizer.ggml.tokens"))
    return Artefact(
        path, "gguf", weights.bytes, weights.dtype, _parameters(values), (architecture,),
        has_chat_template="tokenizer.chat_template" in metadata, is_pooling=f"{architecture}.pooling_type" in metadata,
    )  # fmt: skip


def _array_length(array: list | int | None) -> int | None:
    """The reader keeps only the length of a long array."""
    return len(array) if isinstance(array, list) else array


def _parameters(values: dict) -> dict[str, int]:
    """The sizes for memory estimates. Multimodal models keep the language model's under text_config."""
    text = values.get("text_config")
    merged = values | text if isinstance(text, dict) else values
    return {name: _parameter(name, merged[name]) for name in PARAMETERS if merged.get(name) is not None}


def _parameter(name: str, value) -> int:
    """Some models have one value per layer: the highest is used."""
    numbers = value if isinstance(value, list) and value else [value]
    if not all(type(number) is int and 0 < number <= MAX_PARAMETER for number in numbers):
        raise RefusedWeights(_("The model's own %(name)s is impossible.") % {"name": name})
    return max(numbers)


def _has_chat_template(folder: Path) -> bool:
    if any((folder / name).exists() for name in ("chat_template.jinja", "chat_template.json")):
        return True
    tokenizer = folder / "tokenizer_config.json"
    return tokenizer.exists() and bool(_read_object(tokenizer, MAX_JSON_BYTES).get("chat_template"))


def _read(reader, path: Path) -> formats.Weights:
    try:
        return reader(path)
    except formats.DamagedWeights as error:
        raise RefusedWeights(_("%(name)s is damaged: %(why)s.") % {"name": path.name, "why": error}) from None


# --- code in the folder


def _refuse_code(folder: Path, root: Path) -> None:
    """Refuse pickles, programs, remote code and links out of the folder before any engine reads it."""
    for path in _files(folder, root):
        name = path.relative_to(folder)
        if path.suffix.lower() in CODE_SUFFIXES or _may_hold_pickle(path):
            raise _code_refusal(str(name))
        if path.suffix.lower() == ".json" and _requests_code(path):
            raise RefusedWeights(_("%(name)s asks for code from elsewhere (auto_map).") % {"name": name})


def _files(folder: Path, root: Path) -> Iterator[Path]:
    """Every file below `folder`. Raises RefusedWeights for links out of `root`, linked folders, special files."""
    file_count = 0
    for parent, folders, names in os.walk(folder, onerror=_reraise):
        paths = [Path(parent, name) for name in names]
        if any(Path(parent, name).is_symlink() for name in folders):
            raise RefusedWeights(_("The folder holds a link to another folder."))
        file_count += len(paths)
        if file_count > MAX_FILES:
            raise RefusedWeights(_("The folder holds more than %(most)d files.") % {"most": MAX_FILES})
        for path in paths:
            if not _resolve_below(root, path).is_file():
                raise RefusedWeights(_("%(name)s is not a plain file.") % {"name": path.name})
            yield path


def _reraise(error: OSError) -> None:
    raise error


def _may_hold_pickle(path: Path) -> bool:
    """Decides by the first bytes; a .bin with unknown first bytes may be a pickle of an old protocol."""
    start = _start_of(path)
    if path.suffix.lower() == ".bin":
        return not (formats.is_gguf(start) or formats.looks_like_safetensors(start))
    return start.startswith(PICKLE_STARTS)


def _requests_code(path: Path) -> bool:
    content = path.read_bytes() if path.stat().st_size <= MAX_JSON_BYTES else b""
    if content and b"auto_map" not in content and b"\\u" not in content:
        return False
    try:
        return _names_auto_map(json.loads(content))
    except (ValueError, RecursionError):
        raise RefusedWeights(_("%(name)s is not JSON, or too large.") % {"name": path.name}) from None


def _names_auto_map(content) -> bool:
    """A vocabulary may contain this text as a token, with an integer value."""
    if isinstance(content, list):
        return any(_names_auto_map(value) for value in content)
    if not isinstance(content, dict):
        return False
    return any(
        (key == "auto_map" and type(value) is not int) or _names_auto_map(value) for key, value in content.items()
    )


def _code_refusal(name: str) -> RefusedWeights:
    return RefusedWeights(_("%(name)s can hold code; only safetensors and GGUF are served.") % {"name": name})


def _start_of(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(START_BYTES)


def _read_object(path: Path, limit: int = MAX_CONFIG_BYTES) -> dict:
    try:
        with path.open("rb") as file:
            content = json.loads(file.read(limit))
    except FileNotFoundError:
        raise MissingWeights(_("The folder has no %(name)s.") % {"name": path.name}) from None
    except (ValueError, RecursionError):
        raise RefusedWeights(_("%(name)s is not JSON, or too large.") % {"name": path.name}) from None
    if not isinstance(content, dict):
        raise RefusedWeights(_("%(name)s is not a JSON object.") % {"name": path.name})
    return content
