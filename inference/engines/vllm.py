"""The old path of engines/vllm.py, with its old name."""

from engines.base import EngineAdapter
from engines.vllm import VllmEngine, is_encoder
from inference.engines import warn

__all__ = ["VllmAdapter", "is_encoder"]


class VllmAdapter(EngineAdapter, VllmEngine):
    """The old name of VllmEngine."""


warn("vllm")
