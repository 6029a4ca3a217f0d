"""Reads a trainer's progress file incrementally: complete lines and valid events only.

The trainer works with a tenant's data and weights: its events are checked like any input from outside.
"""

import logging
import math
from dataclasses import dataclass, field
from pathlib import Path

import orjson

logger = logging.getLogger(__name__)

BYTES_PER_READ = 2**20
MAX_LINE_BYTES = 2**16
MAX_STEP = 2**31 - 1
EVENTS = {"start", "step", "evaluation", "checkpoint", "stopped", "done", "error"}


@dataclass(frozen=True)
class TrainerEvent:
    """`fields` are unchecked: `number` and `text` return checked values."""

    name: str
    step: int
    fields: dict[str, object] = field(default_factory=dict)

    def number(self, name: str) -> float | None:
        """None if it is missing, no number, or not finite."""
        value = self.fields.get(name)
        if not isinstance(value, int | float) or isinstance(value, bool):
            return None
        try:
            return float(value) if math.isfinite(value) else None
        except OverflowError:
            return None

    def text(self, name: str) -> str:
        value = self.fields.get(name)
        return value if isinstance(value, str) else ""


class ProgressReader:
    """Reads one run's file. `all_read` is whether the last read reached its end."""

    def __init__(self, path: Path):
        self._path = path
        self._offset, self._skipping = 0, False
        self.all_read = False

    def read(self) -> list[TrainerEvent]:
        """The new events. A file that has become shorter is read from its beginning again."""
        raw = self._read_bytes()
        lines = raw.split(b"\n")
        rest = lines.pop()
        found = [event for event in map(parse, self._complete(lines)) if event]
        self._offset += len(raw) - len(rest)
        if len(rest) > MAX_LINE_BYTES:
            self._offset, self._skipping = self._offset + len(rest), True
        self.all_read = len(raw) < BYTES_PER_READ
        return found

    def _read_bytes(self) -> bytes:
        try:
            with self._path.open("rb") as file:
                if file.seek(0, 2) < self._offset:
                    self._offset, self._skipping = 0, False
                file.seek(self._offset)
                return file.read(BYTES_PER_READ)
        except OSError:  # not there yet
            return b""

    def _complete(self, lines: list[bytes]) -> list[bytes]:
        """Without the rest of a line that was too long to keep."""
        if self._skipping and lines:
            self._skipping = False
            return lines[1:]
        return lines


def parse(line: bytes) -> TrainerEvent | None:
    """None if it is not a valid event."""
    if not line.strip() or len(line) > MAX_LINE_BYTES:
        return None
    try:
        content = orjson.loads(line)
    except orjson.JSONDecodeError:
        logger.debug("a trainer wrote a line that is not JSON")
        return None
    if not isinstance(content, dict):
        return None
    name, step = content.get("event"), content.get("step")
    if not isinstance(step, int) or isinstance(step, bool) or not 0 <= step <= MAX_STEP:
        return None
    return TrainerEvent(name, step, content) if isinstance(name, str) and name in EVENTS else None
