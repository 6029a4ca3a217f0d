"""Lets PyPI's torchvision, a CUDA build, be imported beside a CPU build of torch.

Its compiled operators cannot be loaded there, and its import ends with "operator torchvision::nms does not
exist". Engines need only its Python parts, so declaring the two operators whose fake versions it registers is
enough. A .pth file imports this module in every interpreter of the environment; until torchvision is imported it
does nothing.
"""

import importlib.abc
import sys

_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


class TorchvisionWatch(importlib.abc.MetaPathFinder):
    """Sees torchvision's import coming, declares its operators once and leaves the finding to the others."""

    def __init__(self):
        self.library = None

    def find_spec(self, fullname, path=None, target=None):
        if fullname == "torchvision" and self.library is None:
            self._declare_operators()
        return None

    def _declare_operators(self):
        import torch  # not at the top: it takes seconds, and most interpreters never need it

        if torch.version.cuda or torch.version.hip:
            return
        # Kept on the instance: the declarations vanish with the library object.
        self.library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            self.library.define(operator + _SIGNATURE)


sys.meta_path.insert(0, TorchvisionWatch())
