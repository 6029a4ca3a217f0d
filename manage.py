#!/usr/bin/env python3
"""Serai's one entry point: makes the environment on first use, then runs the launcher or a Django command."""

import os
import sys

if sys.version_info < (3, 11):  # noqa: UP036 - older versions must reach this line
    sys.exit("serai: Python 3.11 or newer is needed; this is Python {}.{}.".format(*sys.version_info))

sys.path.insert(1, os.path.join(os.path.dirname(os.path.abspath(__file__)), "platform"))

from launcher import bootstrap
from launcher.start_errors import CannotStart


def main() -> int:
    try:
        bootstrap.ensure_environment(sys.argv)
        from launcher import commands  # imports packages that bootstrap has just installed

        return commands.run(sys.argv)
    except CannotStart as problem:
        print(f"serai: {problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
