"""The loops of a process and whether each one still runs. The diagnostics of every process show them."""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum

logger = logging.getLogger(__name__)

LATE_TURNS, LATE_SECONDS = 3, 30.0  # a loop is stuck after this many intervals without a turn, and at least this long
_WATCH_INTERVAL = 10.0  # seconds


class LoopSeverity(StrEnum):
    """What fails while the loop is stuck: all service, most of it, some of it, nothing yet."""

    CRITICAL = "critical"
    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"


@dataclass(eq=False)
class Periodic:
    """One loop, listed from its first turn until `end`; a later loop of the same name replaces it.

    `interval` is in seconds; `began_at` and `ended_at` of the last turn are epoch seconds; `error` is the class of
    the exception that ended the last turn; empty after a turn without one.
    """

    name: str
    level: LoopSeverity
    interval: float
    began_at: float | None = None
    ended_at: float | None = None
    error: str = ""
    turns: int = 0
    _turn_began: float = field(default_factory=time.monotonic)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Around the work of one turn, not around the pause between two."""
        _loops[self.name] = self
        self.began_at, self._turn_began = time.time(), time.monotonic()
        self.turns += 1
        try:
            yield
            self.error = ""
        except Exception as error:
            self.error = type(error).__name__
            raise
        finally:
            self.ended_at = time.time()

    def end(self) -> None:
        """Remove the loop from the list: it ended normally."""
        if _loops.get(self.name) is self:
            del _loops[self.name]

    @property
    def age(self) -> float:
        """Seconds since the last turn began."""
        return time.monotonic() - self._turn_began

    @property
    def stuck(self) -> bool:
        return self.age > max(LATE_SECONDS, LATE_TURNS * self.interval)


_loops: dict[str, Periodic] = {}


def loops() -> list[Periodic]:
    """All loops of this process, sorted by name."""
    return [_loops[name] for name in sorted(_loops)]


def watch_loops() -> None:
    """Log each loop that gets stuck, and again when it recovers. Starts a thread."""
    threading.Thread(target=_log_stuck_loops, name="loop-watch", daemon=True).start()


def _log_stuck_loops() -> None:
    stuck: set[str] = set()
    while True:
        time.sleep(_WATCH_INTERVAL)
        now_stuck = {loop.name: loop for loop in loops() if loop.stuck}
        for name in now_stuck.keys() - stuck:
            loop = now_stuck[name]
            text = "%s (%s) is stuck: last turn %.0f s ago, due every %.3g s"
            logger.error(text, name, loop.level, loop.age, loop.interval)
        for name in stuck - now_stuck.keys():
            logger.warning("%s turns again", name)
        stuck = set(now_stuck)
