"""Waits for the supervisor's death, however it comes, and then ends whatever of its session is left.

The kernel's parent-death signal reaches only direct children, and a child may be deaf to it. Standard input is
a pipe whose other end only the supervisor holds: it closes when the supervisor is gone.
"""

import os
import signal
import sys

from launcher import processes

PATIENCE = 8  # a shim ends its engine 5 s after the supervisor by itself


def main() -> None:
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()
    processes.end_session(os.environ[processes.SESSION], patience=PATIENCE, spared=[os.getpid()])


if __name__ == "__main__":
    main()
