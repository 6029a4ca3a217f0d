"""Usage of requests: each one is recorded when it is admitted and when it ends, and stored in batches.

Path of a record: `Meter` (event loop) → spool (local disk) → `Flusher` (thread) → table inference_usagerecord.
Postgres may be down until the disk is full. A record that is sent twice counts once.
"""

import logging
import threading
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import orjson
from django.db import DatabaseError, DataError, IntegrityError, close_old_connections, connection
from django.db.utils import InterfaceError

from core.periodic import LoopSeverity, Periodic
from gateway.api.stream_relay import TokenUsage
from gateway.json_types import JsonList
from gateway.metering import spool
from inference.usage import LOST

logger = logging.getLogger(__name__)

DAY = 86_400
FLUSH_INTERVAL, RECOVER_INTERVAL, RETRY_INTERVAL = 0.25, 30, 2
KEY_USE_INTERVAL = 60  # resolution of a key's `last_used_at`


@dataclass(slots=True)
class RequestRecord:
    """One request. `started_at` is in epoch seconds; it counts for the day (UTC) of its admission."""

    tenant_id: str
    model_id: str
    model_name: str
    route: str
    stream: bool
    key_id: str | None = None
    user_id: str | None = None
    request_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    started_at: float = field(default_factory=time.time)
    instance_id: str | None = None
    generation: int = 0
    status: str = LOST
    http_status: int = 0
    usage: TokenUsage = TokenUsage()
    queue_ms: int = 0
    ttft_ms: int | None = None
    duration_ms: int = 0

    def admission(self) -> JsonList:
        return [
            "a", self.request_id, int(self.started_at // DAY), self.started_at, self.tenant_id, self.key_id,
            self.user_id, self.model_id, self.model_name, self.route, self.stream,
        ]  # fmt: skip

    def settlement(self) -> JsonList:
        usage = self.usage
        return [
            "s", self.request_id, self.instance_id, self.generation, self.status, self.http_status,
            usage.prompt, usage.completion, usage.cached, self.queue_ms, self.ttft_ms, self.duration_ms,
        ]  # fmt: skip


class UsageSink(Protocol):
    """Where the data plane reports its requests; neither call blocks or fails."""

    def admit(self, record: RequestRecord) -> None: ...

    def finish_usage(self, record: RequestRecord) -> None: ...


class UsageStore(Protocol):
    """Where the flusher sends rows: (admission, settlement) pairs as stored in the spool."""

    def insert(self, rows: list[tuple[JsonList, JsonList]]) -> None: ...

    def touch_keys(self, used: dict[str, float]) -> None: ...

    def close(self) -> None: ...


class Meter:
    """The sink of a gateway process."""

    def __init__(self, root: Path, store: UsageStore) -> None:
        self._spool = spool.Spool(root)
        self._flusher = UsageFlusher(self._spool, root, store)

    def start(self) -> None:
        self._flusher.start()

    def stop(self, timeout: float = 5.0) -> None:
        """Send what is left; what cannot be sent in time stays on disk for the next process."""
        self._flusher.stop(timeout)
        self._spool.close()

    def admit(self, record: RequestRecord) -> None:
        self._spool.admit(record.request_id, orjson.dumps(record.admission()) + b"\n")

    def finish_usage(self, record: RequestRecord) -> None:
        self._spool.finish_usage(record.request_id, orjson.dumps(record.settlement()) + b"\n")

    @property
    def lost(self) -> int:
        return self._spool.lost


class UsageFlusher(threading.Thread):
    """Sends the records of the spool in batches, also those that killed processes left."""

    def __init__(self, own_spool: spool.Spool, root: Path, store: UsageStore) -> None:
        super().__init__(name="usage-flusher", daemon=True)
        self._spool, self._root, self._store = own_spool, root, store
        self._reader = spool.SpoolReader(own_spool.folder)
        self._unsent: list[tuple[JsonList, JsonList]] = []
        self._key_uses: dict[str, float] = {}
        self._loop = Periodic("usage flusher", LoopSeverity.HIGH, FLUSH_INTERVAL)
        self._ending = threading.Event()
        self._recover_at = 0.0

    def run(self) -> None:
        while not self._ending.is_set():
            with self._loop.turn():
                wait_seconds = self._round()
            self._ending.wait(wait_seconds)
        self._loop.end()
        if self._round() == FLUSH_INTERVAL:
            self._spool.remove()
        self._store.close()

    def stop(self, timeout: float) -> None:
        self._ending.set()
        if self.is_alive():
            self.join(timeout)

    def _round(self) -> float:
        """Send all records. Returns the seconds to wait until the next round."""
        try:
            self._drain()
            if time.monotonic() >= self._recover_at and not self._ending.is_set():
                self._recover_at = time.monotonic() + RECOVER_INTERVAL
                self._recover()
        except (DatabaseError, InterfaceError, OSError) as error:
            logger.warning("usage records wait on disk: %s", type(error).__name__)
            return RETRY_INTERVAL
        return FLUSH_INTERVAL

    def _drain(self) -> None:
        while True:
            self._unsent = self._unsent or self._reader.settled_pairs(self._spool.segment)
            if not self._unsent:
                break
            self._send(self._unsent)
            self._unsent = []
        self._reader.discard()

    def _send(self, rows: list[tuple[JsonList, JsonList]]) -> None:
        self._store.insert(rows)
        used: dict[str, float] = {}
        for admission, _settlement in rows:
            key_id, at = admission[5], admission[3]
            if key_id and at - self._key_uses.get(key_id, 0) > KEY_USE_INTERVAL:
                used[key_id] = self._key_uses[key_id] = at
        if used:
            self._store.touch_keys(used)

    def _recover(self) -> None:
        for folder in spool.orphan_folders(self._root):
            reader = spool.SpoolReader(folder)
            while rows := reader.settled_pairs(reader.end):
                self._store.insert(rows)
            lost = [(admission, _lost_settlement(admission)) for admission in reader.open.values()]
            if lost:
                self._store.insert(lost)
            spool.remove_folder(folder)


def _lost_settlement(admission: JsonList) -> JsonList:
    return ["s", admission[1], None, 0, LOST, 0, 0, 0, 0, 0, None, 0]


INSERT = """
INSERT INTO inference_usagerecord (
    request_id, started_on, started_at, tenant_id, key_id, user_id, model_id, model_name, route, stream,
    instance_id, generation, status, http_status, prompt_tokens, completion_tokens, cached_tokens,
    queue_ms, ttft_ms, duration_ms
)
SELECT request_id, DATE '1970-01-01' + day, to_timestamp(started_at), tenant_id, key_id, user_id, model_id,
    model_name, route, stream, instance_id, generation, status, http_status, prompt_tokens, completion_tokens,
    cached_tokens, queue_ms, ttft_ms, duration_ms
FROM unnest(
    %s::uuid[], %s::int[], %s::float8[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[],
    %s::text[], %s::bool[], %s::text[], %s::int[], %s::text[], %s::int[], %s::int[], %s::int[], %s::int[],
    %s::int[], %s::int[], %s::int[]
) AS row (
    request_id, day, started_at, tenant_id, key_id, user_id, model_id, model_name, route, stream,
    instance_id, generation, status, http_status, prompt_tokens, completion_tokens, cached_tokens,
    queue_ms, ttft_ms, duration_ms
)
ON CONFLICT DO NOTHING
"""
TOUCH_KEYS = """
UPDATE accounts_apikey SET last_used_at = to_timestamp(used.at)
FROM unnest(%s::text[], %s::float8[]) AS used (id, at)
WHERE accounts_apikey.id = used.id AND coalesce(last_used_at, 'epoch') < to_timestamp(used.at)
"""


class UsageTable:
    """The flusher's store in Postgres, over the calling thread's connection."""

    def insert(self, rows: list[tuple[JsonList, JsonList]]) -> None:
        try:
            self._execute(INSERT, _columns(rows))
        except (DataError, IntegrityError):
            for row in rows:
                self._insert_one(row)

    def _insert_one(self, row: tuple[JsonList, JsonList]) -> None:
        """One row that Postgres refuses must not block all others."""
        try:
            self._execute(INSERT, _columns([row]))
        except (DataError, IntegrityError) as error:
            logger.error("usage record %s refused: %s", row[0][1], type(error).__name__)

    def touch_keys(self, used: dict[str, float]) -> None:
        self._execute(TOUCH_KEYS, [list(used), list(used.values())])

    def _execute(self, sql: str, parameters: JsonList) -> None:
        close_old_connections()
        with connection.cursor() as cursor:
            cursor.execute(sql, parameters)

    def close(self) -> None:
        connection.close()


def _columns(rows: list[tuple[JsonList, JsonList]]) -> list[JsonList]:
    """One list per parameter of INSERT."""
    joined = (admission[1:] + settlement[2:] for admission, settlement in rows)
    return [list(column) for column in zip(*joined, strict=True)]
