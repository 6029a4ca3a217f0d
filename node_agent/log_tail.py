"""Reads an engine's log from a saved position, across files that the shim rotates in the meantime.

A position is `<first line's time>:<inode>:<offset>`: it identifies the file, even once renamed, and the byte in it.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from node_agent.shims import LogLine, log_files, parse_line

START = ""
STAMP_BYTES = 32
MAX_OPEN_TRIES = 5


@dataclass(frozen=True)
class PositionedLine:
    """A line and the position after it."""

    line: LogLine
    position: str


def read_lines(folder: Path, place: str, lines: int) -> list[PositionedLine]:
    """The next lines after `place`, at most `lines`. Starts with the oldest file if the file of `place` is gone."""
    with ExitStack() as stack:
        files = _open(folder, stack)
        found = []
        for name, file in _starting_at(files, place):
            for read in _complete_lines(name, file):
                found.append(read)
                if len(found) == lines:
                    return found
        return found


def _open(folder: Path, stack: ExitStack) -> list[tuple[str, BinaryIO]]:
    """All files with their stable names, oldest first, in a consistent state between two rotations."""
    files = []
    for _try in range(MAX_OPEN_TRIES):
        files = [stack.enter_context(file) for file in map(_open_if_there, log_files(folder)) if file]
        if not files or _is_newest(folder, files[0]):
            break
    return [(name, file) for file in reversed(files) if (name := _stable_name(file))]


def _open_if_there(path: Path) -> BinaryIO | None:
    try:
        return path.open("rb")
    except FileNotFoundError:
        return None


def _is_newest(folder: Path, file: BinaryIO) -> bool:
    newest = next(log_files(folder))
    try:
        return newest.stat().st_ino == os.fstat(file.fileno()).st_ino
    except FileNotFoundError:
        return False


def _stable_name(file: BinaryIO) -> str:
    """Empty until the first line has begun. The inode alone is not enough: it is reused after a file is removed."""
    stamp, space, _rest = file.read(STAMP_BYTES).partition(b" ")
    file.seek(0)
    return f"{stamp.decode('ascii', 'replace')}:{os.fstat(file.fileno()).st_ino}" if space else ""


def _starting_at(files: list[tuple[str, BinaryIO]], place: str) -> Iterator[tuple[str, BinaryIO]]:
    """The file of this position, at its offset, and all later files; all files if it is gone."""
    name, _, offset = place.rpartition(":")
    names = [stable_name for stable_name, _file in files]
    if name in names:
        files = files[names.index(name) :]
        files[0][1].seek(int(offset))
    yield from files


def _complete_lines(name: str, file: BinaryIO) -> Iterator[PositionedLine]:
    """Complete lines; one that is still being written is left for the next call."""
    while (raw := file.readline()).endswith(b"\n"):
        if line := parse_line(raw.decode("utf-8", "replace")):
            yield PositionedLine(line, f"{name}:{file.tell()}")
