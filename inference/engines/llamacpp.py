"""The old path of engines/llamacpp.py, with its old name."""

from engines.base import EngineAdapter
from engines.llamacpp import LlamaCppEngine, slots
from inference.engines import warn

__all__ = ["LlamaCppAdapter", "slots"]


class LlamaCppAdapter(EngineAdapter, LlamaCppEngine):
    """The old name of LlamaCppEngine."""


warn("llamacpp")
