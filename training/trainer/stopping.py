"""SIGTERM: a training ends within one step, with a checkpoint if there is progress to save."""

import os
import signal

from progress import ProgressJournal

STOPPED = 3


class Stop:
    """During steps (`deferred`) it waits for the end of one; before and after, there is nothing to save."""

    def __init__(self, journal: ProgressJournal):
        self.journal, self.step = journal, 0
        self.requested = self.deferred = False
        signal.signal(signal.SIGTERM, self._on_sigterm)

    def _on_sigterm(self, _signum, _frame) -> None:
        self.requested = True
        if not self.deferred:
            self.exit_now()

    def exit_now(self) -> None:
        self.journal.write_event("stopped", self.step)
        os._exit(STOPPED)  # nothing is open, and the exit of torch is slow

    def ignore_signals(self) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
