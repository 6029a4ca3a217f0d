"""A process's journal of requests on local disk: it survives a kill of the process and needs no database.

    <root>/<process>/lock               held (flock) as long as the process lives
    <root>/<process>/00000001.jsonl     a JSON list per line: admission ["a", id, …], settlement ["s", id, …]

A new segment repeats the admissions that are still open, so a read segment can be deleted.
"""

import fcntl
import logging
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import orjson

from gateway.json_types import JsonList

logger = logging.getLogger(__name__)

SEGMENT_BYTES = 8 * 1024 * 1024
MAX_BACKLOG_BYTES = 16 * 1024 * 1024
READ_BYTES = 512 * 1024
ERROR_LOG_INTERVAL = 60


def lock_folder(folder: Path) -> int | None:
    """Lock the folder. Returns a descriptor to keep open, or None if a living process holds it."""
    try:
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


class Spool:
    """The writing side, for one thread. While the disk is full, lines are kept in memory; `lost` counts the rest."""

    def __init__(
        self, root: Path, *, segment_bytes: int = SEGMENT_BYTES, backlog_bytes: int = MAX_BACKLOG_BYTES
    ) -> None:
        name = f"{os.getpid()}-{uuid.uuid4().hex[:12]}"
        self.folder = root / name
        self.segment = 0
        self.lost = 0
        self._segment_bytes, self._backlog_bytes = segment_bytes, backlog_bytes
        self._backlog = bytearray()
        self._open: dict[str, bytes] = {}
        self._size, self._descriptor = 0, -1
        self._logged_at = 0.0
        self._create(root / f".{name}")

    def _create(self, hidden: Path) -> None:
        """The folder stays hidden until it is locked."""
        hidden.mkdir(mode=0o700, parents=True)
        lock = lock_folder(hidden)
        assert lock is not None, "no other process knows the hidden folder"
        self._lock = lock
        hidden.rename(self.folder)
        self._next_segment()

    def admit(self, request_id: str, line: bytes) -> None:
        self._open[request_id] = line
        self._append(line)

    def finish_usage(self, request_id: str, line: bytes) -> None:
        self._open.pop(request_id, None)
        self._append(line)
        if self._size > self._segment_bytes and not self._backlog:
            self._next_segment()

    def _append(self, line: bytes) -> None:
        if not self._backlog:
            written = self._write(line)
            if written < len(line):
                self._backlog += line[written:]
        elif len(self._backlog) + len(line) > self._backlog_bytes:
            self.lost += 1
        else:
            self._backlog += line
            del self._backlog[: self._write(bytes(self._backlog))]

    def _write(self, data: bytes) -> int:
        try:
            written = os.write(self._descriptor, data)
        except OSError as error:
            self._log_error(error)
            return 0
        self._size += written
        return written

    def _log_error(self, error: OSError) -> None:
        now = time.monotonic()
        if now - self._logged_at > ERROR_LOG_INTERVAL:
            self._logged_at = now
            logger.error("usage journal: %s (%d records lost so far)", error.strerror, self.lost)

    def _next_segment(self) -> None:
        path = self.folder / f"{self.segment + 1:08d}.jsonl"
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        except OSError as error:
            return self._log_error(error)
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor, self._size = descriptor, 0
        if self._open:
            self._append(b"".join(self._open.values()))
        self.segment += 1

    def close(self) -> None:
        """Release the folder; the next process recovers what is left in it."""
        os.close(self._descriptor)
        os.close(self._lock)

    def remove(self) -> None:
        """Delete the folder, once everything was read, if no request is open."""
        if not self._open and not self._backlog:
            remove_folder(self.folder)


class SpoolReader:
    """The reading side of one folder, from its beginning: settlements joined with their admissions."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        segments = [int(path.stem) for path in folder.glob("*.jsonl")]
        self.end = max(segments, default=0) + 1
        self._segment, self._offset = min(segments, default=1), 0
        self._read_segments: list[Path] = []
        self.open: dict[str, JsonList] = {}

    def settled_pairs(self, sealed_below: int) -> list[tuple[JsonList, JsonList]]:
        """The next (admission, settlement) pairs; segments under `sealed_below` get no more lines."""
        while True:
            path = self._folder / f"{self._segment:08d}.jsonl"
            lines = self._read_lines(path)
            if pairs := list(self._join(lines)):
                return pairs
            if lines:
                continue
            if self._segment >= sealed_below:
                return []
            self._read_segments.append(path)
            self._segment, self._offset = self._segment + 1, 0

    def discard(self) -> None:
        """Delete the segments that were read and whose records are stored elsewhere."""
        while self._read_segments:
            self._read_segments.pop().unlink(missing_ok=True)

    def _read_lines(self, path: Path) -> list[bytes]:
        try:
            with path.open("rb") as file:
                file.seek(self._offset)
                data = file.read(READ_BYTES)
        except FileNotFoundError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        return whole.splitlines()

    def _join(self, lines: list[bytes]) -> Iterator[tuple[JsonList, JsonList]]:
        for line in lines:
            with suppress(orjson.JSONDecodeError, LookupError, TypeError):
                entry = orjson.loads(line)
                if entry[0] == "a":
                    self.open[entry[1]] = entry
                elif entry[1] in self.open:
                    yield self.open.pop(entry[1]), entry


def orphan_folders(root: Path) -> Iterator[Path]:
    """Folders of processes that have ended, each locked while the caller uses it."""
    for trash in root.glob(".gone-*"):  # left by a process that was killed while deleting it
        shutil.rmtree(trash, ignore_errors=True)
    for folder in sorted(root.glob("[!.]*-*")):
        descriptor = lock_folder(folder)
        if descriptor is not None:
            try:
                yield folder
            finally:
                os.close(descriptor)


def remove_folder(folder: Path) -> None:
    """Rename, then delete: if the lock file went first, another process could lock a half-deleted folder."""
    trash = folder.with_name(f".gone-{folder.name}")
    with suppress(OSError):
        folder.rename(trash)
        shutil.rmtree(trash, ignore_errors=True)
