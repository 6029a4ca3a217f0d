"""`manage.py test`: the whole suite, or what pytest's arguments choose."""

import os
import sys
from collections.abc import Sequence

from launcher.private_files import ROOT

MOST_WORKERS = 4


def main(arguments: Sequence[str]) -> int:
    """Becomes pytest, so that its exit code is ours."""
    os.chdir(ROOT)
    os.execv(sys.executable, [sys.executable, "-m", "pytest", *_spread(arguments), *arguments])


def _spread(arguments: Sequence[str]) -> list[str]:
    """One worker per core up to four, unless the caller says otherwise or wants to debug."""
    decided = ("-n", "--numprocesses", "--pdb", "-s", "--capture=no")
    if any(argument.startswith(decided) for argument in arguments):
        return []
    return ["-n", str(min(os.cpu_count() or 1, MOST_WORKERS))]
