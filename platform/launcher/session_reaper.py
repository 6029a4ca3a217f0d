"""Waits until the supervisor has ended, also by SIGKILL, then ends the remaining processes of its session.

The kernel's parent-death signal reaches only direct children, and a child may ignore it. Standard input is
a pipe whose other end only the supervisor holds: it closes when the supervisor has ended.
"""

import os
import signal
import sys

from launcher import processes

EXIT_TIMEOUT = 8  # seconds; a shim ends its engine by itself 5 s after the supervisor


def main() -> None:
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()
    processes.end_session(os.environ[processes.SESSION_VARIABLE], exit_timeout=EXIT_TIMEOUT, spared=[os.getpid()])


if __name__ == "__main__":
    main()
