"""Ships the log lines of engines and other workloads from this node's files to streams, in its own thread."""

import heapq
import logging
import socket
import threading
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path

from django.conf import settings

from core import broker
from core.periodic import LoopSeverity, Periodic
from inference.logs import stream
from inference.logs.lines import StoredLogLine, clean_line
from inference.models import Instance
from node_agent import folders
from node_agent.log_tail import START, PositionedLine, read_lines

logger = logging.getLogger(__name__)

SHIP_INTERVAL = 0.25
RETRY_INTERVAL = 1.0
BATCH_LINES = 500  # lines of one source per read
LOSS_CHECK_TURNS = 20


@dataclass
class LogSource:
    """The log files of one owner. `position`, the place shipped so far, is None until it was read from Valkey."""

    owner: str
    stream: str  # the id of a model, or of another owner of a stream
    replica: int
    since: float  # epoch seconds: older lines were cleared
    folder: Path
    position: str | None = None
    wanted: bool = True  # false: it has ended, and is dropped once it was read to its end
    seen: tuple[int, int] | None = field(default=None, compare=False)  # inode and size of its newest file

    def has_changed(self) -> bool:
        """Whether its newest file was replaced or has grown since the last call."""
        try:
            status = (self.folder / "engine.log").stat()
        except FileNotFoundError:
            return False
        seen, self.seen = self.seen, (status.st_ino, status.st_size)
        return seen != self.seen


class LogShipper:
    """`set_sources` says what to ship. It blocks on nothing but Valkey, and nothing blocks on it."""

    def __init__(self) -> None:
        self._mark = f"serai:logs:filled:{socket.gethostname()}:{settings.DATA_DIR}"
        self._loop = Periodic("logs", LoopSeverity.MEDIUM, SHIP_INTERVAL)
        self._sources: dict[str, LogSource] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="logs", daemon=True)
        self.wants_all = True  # also ended sources: after a start, and when Valkey has lost its data

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(5)

    def set_sources(self, sources: list[LogSource], *, complete: bool) -> None:
        """Ship these sources. Others that were shipped before are first read to their end."""
        with self._lock:
            wanted = {source.owner for source in sources}
            for known in self._sources.values():
                known.wanted = known.owner in wanted
            for source in sources:
                self._sources.setdefault(source.owner, source).since = source.since
            if complete:
                self.wants_all = False

    def _run(self) -> None:
        while not self._stopping.is_set():
            pause = SHIP_INTERVAL
            try:
                with self._loop.turn():
                    if self._loop.turns % LOSS_CHECK_TURNS == 1:
                        self._detect_loss()
                    if self._ship_all():
                        pause = 0
            except broker.UNAVAILABLE as error:
                logger.warning("logs wait for Valkey: %s", type(error).__name__)
                self._reset_positions()
                pause = RETRY_INTERVAL
            self._stopping.wait(pause)
        self._loop.end()

    def _detect_loss(self) -> None:
        """The mark is stored like the streams: if it is gone, they are gone too."""
        if broker.client().set(self._mark, 1, nx=True):
            self._reset_positions()
            self.wants_all = True

    def _reset_positions(self) -> None:
        """Read from Valkey again how far each source was shipped."""
        with self._lock:
            for source in self._sources.values():
                source.position = source.seen = None

    def _ship_all(self) -> bool:
        """One batch for each stream. Returns whether there is more."""
        with self._lock:
            sources = list(self._sources.values())
        by_stream = defaultdict(list)
        for source in sources:
            if source.has_changed():
                by_stream[source.stream].append(source)
            elif not source.wanted:
                self._drop(source)
        more = [self._ship(name, group) for name, group in by_stream.items()]
        return any(more)

    def _drop(self, source: LogSource) -> None:
        with self._lock:
            if not source.wanted:
                self._sources.pop(source.owner, None)

    def _ship(self, name: str, sources: list[LogSource]) -> bool:
        """Ship the new lines of a stream's sources, ordered by time. Returns whether there is more."""
        known = self._known_positions(name, sources)
        reads = {source.owner: read_lines(source.folder, known[source.owner], BATCH_LINES) for source in sources}
        full = [found for found in reads.values() if len(found) == BATCH_LINES]
        until = min((max(read.line.timestamp for read in found) for found in full), default=float("inf"))
        parts = [(source, _up_to(reads[source.owner], until)) for source in sources]
        parts = [(source, part) for source, part in parts if part]
        progress = [stream.ReadProgress(source.owner, known[source.owner], part[-1].position) for source, part in parts]
        done = not parts or stream.append(name, progress, _merge(parts))
        for source, part in parts:
            source.position = part[-1].position if done else None
        if full or not done:
            for source in sources:
                source.seen = None
        return bool(full) or not done

    def _known_positions(self, name: str, sources: list[LogSource]) -> dict[str, str]:
        """Owner → the place shipped so far, from Valkey if it is not known yet."""
        unknown = [source.owner for source in sources if source.position is None]
        found = stream.positions(name, unknown) if unknown else {}
        for source in sources:
            if source.position is None:
                source.position = found[source.owner] or START
        return {source.owner: source.position or START for source in sources}


def _up_to(reads: list[PositionedLine], until: float) -> list[PositionedLine]:
    """Reads up to the time after which another source may have unread lines."""
    return list(takewhile(lambda read: read.line.timestamp <= until, reads))


def _merge(parts: list[tuple[LogSource, list[PositionedLine]]]) -> list[StoredLogLine]:
    sorted_parts = [
        [
            StoredLogLine(read.line.timestamp, source.owner, source.replica, clean_line(read.line.text))
            for read in part
            if read.line.timestamp >= source.since
        ]
        for source, part in parts
    ]
    return list(heapq.merge(*sorted_parts, key=lambda line: line.time))


def log_source(instance: Instance) -> LogSource:
    since = instance.logs_since.timestamp() if instance.logs_since else 0.0
    return LogSource(instance.pk, instance.model_id, instance.replica, since, folders.folder_of(instance.pk))
