"""`manage.py test`: runs the whole suite, or the tests that pytest's arguments choose."""

import os
import sys
from collections.abc import Sequence

from launcher.data_folder import ROOT

MAX_WORKERS = 4


def main(arguments: Sequence[str]) -> int:
    """Replaces this process by pytest, so that the exit code is pytest's."""
    os.chdir(ROOT)
    os.execv(sys.executable, [sys.executable, "-m", "pytest", *_worker_arguments(arguments), *arguments])


def _worker_arguments(arguments: Sequence[str]) -> list[str]:
    """One worker per core, at most four, unless the caller chose a number or wants to debug."""
    exclusive = ("-n", "--numprocesses", "--pdb", "-s", "--capture=no")
    if any(argument.startswith(exclusive) for argument in arguments):
        return []
    return ["-n", str(min(os.cpu_count() or 1, MAX_WORKERS))]
