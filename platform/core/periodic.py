"""The loops of a process, each with what tells whether it still turns: the diagnostics of every process show them."""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum

logger = logging.getLogger(__name__)

LATE_TURNS, LATE_SECONDS = 3, 30.0  # a loop is stuck after so many intervals without a turn, at least so many seconds
WATCH_SECONDS = 10.0


class Level(StrEnum):
    """What is lost while the loop stands: all service, much of it, something, nothing yet."""

    CRITICAL = "critical"
    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"


@dataclass(eq=False)
class Periodic:
    """One loop. It is known from its first turn on, until `end`; a later one of the same name takes its place.

    `interval` is in seconds; `began_at` and `ended_at` of the last turn are epoch seconds; `error` is the class of
    the exception that the last turn ended with, empty after a good one.
    """

    name: str
    level: Level
    interval: float
    began_at: float | None = None
    ended_at: float | None = None
    error: str = ""
    turns: int = 0
    _since: float = field(default_factory=time.monotonic)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Around the work of one turn, not around the pause between two."""
        _known[self.name] = self
        self.began_at, self._since = time.time(), time.monotonic()
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
        """The loop has ended as it should."""
        if _known.get(self.name) is self:
            del _known[self.name]

    @property
    def age(self) -> float:
        """Seconds since the last turn began."""
        return time.monotonic() - self._since

    @property
    def stuck(self) -> bool:
        return self.age > max(LATE_SECONDS, LATE_TURNS * self.interval)


_known: dict[str, Periodic] = {}


def loops() -> list[Periodic]:
    """Of this process, by name."""
    return [_known[name] for name in sorted(_known)]


def watch() -> None:
    """Log each loop that gets stuck, and once more when it turns again."""
    threading.Thread(target=_watch, name="loop-watch", daemon=True).start()


def _watch() -> None:
    stuck: set[str] = set()
    while True:
        time.sleep(WATCH_SECONDS)
        now_stuck = {loop.name: loop for loop in loops() if loop.stuck}
        for name in now_stuck.keys() - stuck:
            loop = now_stuck[name]
            text = "%s (%s) is stuck: last turn %.0f s ago, due every %.3g s"
            logger.error(text, name, loop.level, loop.age, loop.interval)
        for name in stuck - now_stuck.keys():
            logger.warning("%s turns again", name)
        stuck = set(now_stuck)
