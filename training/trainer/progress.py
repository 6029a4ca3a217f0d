"""`progress.jsonl`: the events of a run, one JSON object per line, each written at once."""

import json
import math
import os
import time
from pathlib import Path


class ProgressJournal:
    """Raises OSError if the disk is full; the next event then ends the torn line first."""

    def __init__(self, path: Path):
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._torn = False

    def write_event(self, event: str, step: int, **fields) -> None:
        content = {"event": event, "step": step, "at": round(time.time(), 6), **fields}
        line = json.dumps({name: _finite(value) for name, value in content.items()})
        self._write(("\n" if self._torn else "").encode() + line.encode() + b"\n")

    def _write(self, line: bytes) -> None:
        while line:
            self._torn = True
            line = line[os.write(self._file, line) :]
        self._torn = False


def _finite(value):
    """JSON has no NaN and no infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
