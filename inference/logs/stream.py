"""The last lines of each model, from all of its instances, in a capped stream of Valkey.

A hash beside the stream (the book) has the read position in each instance's files and the stream's size. Both change
in one step, so that no line is lost or doubled. If Valkey loses its data, the agent writes it again from its files.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from core import broker
from inference.logs.lines import StoredLogLine

MAX_LINES = 10_000
MAX_BYTES = 4 * 2**20
RETENTION_SECONDS = 30 * 24 * 3600  # after the last line

# KEYS: stream, book.  ARGV: most lines, most bytes, seconds, n, n × (instance, known position, next position),
# then lines as (time, instance, replica, text). Returns 0 and changes nothing if a position is not the known one.
APPEND = """
local stream, book = KEYS[1], KEYS[2]
local lines = 5 + 3 * ARGV[4]
for at = 5, lines - 1, 3 do
    if (redis.call('HGET', book, ARGV[at]) or '') ~= ARGV[at + 1] then return 0 end
end
for at = 5, lines - 1, 3 do redis.call('HSET', book, ARGV[at], ARGV[at + 2]) end
local bytes = tonumber(redis.call('HGET', book, 'bytes') or 0)
for at = lines, #ARGV, 4 do
    redis.call('XADD', stream, '*', 't', ARGV[at], 'i', ARGV[at + 1], 'r', ARGV[at + 2], 'm', ARGV[at + 3])
    bytes = bytes + #ARGV[at + 3]
end
while bytes > tonumber(ARGV[2]) or redis.call('XLEN', stream) > tonumber(ARGV[1]) do
    local oldest = redis.call('XRANGE', stream, '-', '+', 'COUNT', 50)
    if #oldest == 0 then bytes = 0 break end
    for _, entry in ipairs(oldest) do
        redis.call('XDEL', stream, entry[1])
        bytes = bytes - #entry[2][8]
    end
end
redis.call('HSET', book, 'bytes', bytes)
redis.call('EXPIRE', stream, ARGV[3])
redis.call('EXPIRE', book, ARGV[3])
return 1
"""
# KEYS: stream, book.  ARGV: the time before which lines are deleted. Returns how many were.
CLEAR = """
local bytes, gone = tonumber(redis.call('HGET', KEYS[2], 'bytes') or 0), 0
for _, entry in ipairs(redis.call('XRANGE', KEYS[1], '-', '+')) do
    if tonumber(entry[2][2]) < tonumber(ARGV[1]) then
        redis.call('XDEL', KEYS[1], entry[1])
        bytes, gone = bytes - #entry[2][8], gone + 1
    end
end
if gone > 0 then redis.call('HSET', KEYS[2], 'bytes', bytes) end
return gone
"""


@dataclass(frozen=True)
class LogEntry:
    """`id` orders the lines of a model by arrival; a client resumes after it."""

    id: str
    line: StoredLogLine


@dataclass(frozen=True)
class ReadProgress:
    """One instance's files were read from position `known` to `reached`."""

    instance_id: str
    known: str
    reached: str


def keys(model_id: str) -> list[str]:
    return [f"serai:logs:{model_id}", f"serai:logs:{model_id}:book"]


def append(model_id: str, progress: Sequence[ReadProgress], lines: Iterable[StoredLogLine]) -> bool:
    """False if these lines were written already, or if Valkey has lost its data: read the positions again."""
    sources = [value for read in progress for value in (read.instance_id, read.known, read.reached)]
    fields = [value for line in lines for value in (repr(line.time), line.instance_id, line.replica, line.text)]
    arguments = [MAX_LINES, MAX_BYTES, RETENTION_SECONDS, len(progress), *sources, *fields]
    return bool(broker.client().eval(APPEND, 2, *keys(model_id), *arguments))


def positions(model_id: str, instance_ids: Sequence[str]) -> dict[str, str]:
    """The read position in each instance's files; empty if none is known."""
    values: Any = broker.client().hmget(keys(model_id)[1], list(instance_ids))
    return {key: (value or b"").decode() for key, value in zip(instance_ids, values, strict=True)}


def latest(model_id: str, count: int) -> list[LogEntry]:
    """The newest lines, oldest first."""
    entries: Any = broker.client().xrevrange(keys(model_id)[0], count=count)
    return decode(reversed(entries))


def clear(model_id: str, before: float | None = None) -> int:
    """Delete the lines before that time (epoch seconds), or all. Returns how many."""
    return broker.client().eval(CLEAR, 2, *keys(model_id), repr(time.time() + 1 if before is None else before))


def forget(model_id: str) -> None:
    broker.client().delete(*keys(model_id))


def sizes(model_ids: Sequence[str]) -> list[int]:
    """The number of lines of each model."""
    with broker.client().pipeline(transaction=False) as pipeline:
        for model_id in model_ids:
            pipeline.xlen(keys(model_id)[0])
        return pipeline.execute()


def decode(entries: Any) -> list[LogEntry]:
    """From a reply of XRANGE: pairs of entry id and field → value, all bytes, which the client's stubs do not know."""
    return [LogEntry(entry_id.decode(), _line(fields)) for entry_id, fields in entries]


def _line(fields: dict[bytes, bytes]) -> StoredLogLine:
    text = fields[b"m"].decode("utf-8", "replace")
    return StoredLogLine(float(fields[b"t"]), fields[b"i"].decode(), int(fields[b"r"]), text)
