"""The old path of engines/install.py, with its old name."""

from engines.install import engine_program as program
from engines.install import environment_python, is_ready, status
from inference.engines import warn

__all__ = ["environment_python", "is_ready", "program", "status"]

warn("install")
