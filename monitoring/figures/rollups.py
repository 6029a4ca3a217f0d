"""Rolls samples and the usage ledger up to minutes, and minutes up to five minutes, hours and days.

`mark_stale_minutes` marks the minutes that have new rows, in the order in which the rows were written. `roll_up`
computes a level's stale buckets from the level below and marks the buckets above. Both can be repeated or interrupted
at any point without harm: a bucket is always computed completely, and its mark is deleted in the same transaction.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, time
from typing import Any

from django.db import connection, transaction

from core.partitions import Partitioned
from inference.table_cleanup import USAGE_PARTITIONS
from monitoring.figures import samples, usage
from monitoring.figures.levels import LEVELS, MINUTE, SAMPLES, RollupLevel
from monitoring.figures.samples import RollupSummary
from monitoring.models import Stale, Watermark

MARK_INTERVAL = 5
BATCH_BUCKETS = 60  # buckets; after an outage the backlog is rolled up in transactions of this size,
MAX_BATCHES = 20  # and at most so many of them before the next job runs

NEWEST_TRANSACTION = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint"
# Not the snapshot's own xmin: open transactions in any database of the server hold that back
OPEN_TRANSACTION_LAG = """
SELECT coalesce(max(behind), 0)
FROM pg_stat_activity, mod(%s - backend_xid::text::bigint + (1::bigint << 32), 1::bigint << 32) AS behind
WHERE datname = current_database() AND pid <> pg_backend_pid() AND behind < 1::bigint << 31
"""
MARK_STALE = """
INSERT INTO monitoring_stale (level, bucket)
SELECT DISTINCT %(level)s, date_bin(%(width)s, {at}, 'epoch'::timestamptz) FROM {table}
WHERE written_in >= %(seen)s AND written_in < %(final)s AND {at} >= %(oldest)s
ON CONFLICT DO NOTHING
"""
MARK_STALE_ABOVE = """
INSERT INTO monitoring_stale (level, bucket)
SELECT DISTINCT %(level)s, above
FROM unnest(%(buckets)s::timestamptz[]) AS bucket, date_bin(%(width)s, bucket, 'epoch'::timestamptz) AS above
WHERE above >= %(oldest)s
ON CONFLICT DO NOTHING
"""
UPSERT = """
INSERT INTO {table} (series_id, bucket, count, sum, min, max, last, buckets)
{select}
ON CONFLICT (series_id, bucket) DO UPDATE SET
    count = excluded.count, sum = excluded.sum, min = excluded.min, max = excluded.max, last = excluded.last,
    buckets = excluded.buckets
"""
FROM_SUMMARIES = """
SELECT series_id, bucket, count, sum, min, max, last, buckets::bigint[]
FROM unnest(%s::int[], %s::timestamptz[], %s::bigint[], %s::float8[], %s::float8[], %s::float8[], %s::float8[],
    %s::text[]) AS summary (series_id, bucket, count, sum, min, max, last, buckets)
"""
# One query per stale bucket, so that only its own rows are read, even if the buckets lie far apart
FROM_SAMPLES = """
SELECT made.* FROM unnest(%(buckets)s::timestamptz[]) AS stale (bucket) CROSS JOIN LATERAL (
    SELECT series_id, stale.bucket, sum(count), sum(value), min(value / count), max(value / count),
        (array_agg(value / count ORDER BY at DESC))[1], serai_sum(buckets)
    FROM monitoring_sample WHERE at >= stale.bucket AND at < stale.bucket + %(width)s AND count > 0
    GROUP BY series_id
) AS made
"""
FROM_BELOW = """
SELECT made.* FROM unnest(%(buckets)s::timestamptz[]) AS stale (bucket) CROSS JOIN LATERAL (
    SELECT series_id, stale.bucket, sum(count), sum(sum), min(min), max(max),
        (array_agg(last ORDER BY bucket DESC))[1], serai_sum(buckets)
    FROM {below} AS below WHERE below.bucket >= stale.bucket AND below.bucket < stale.bucket + %(width)s
    GROUP BY series_id
) AS made
"""
INSERT_TOTAL_SERIES = """
INSERT INTO monitoring_series (metric, node_id, device, model_id, replica, tenant_id, cause)
SELECT DISTINCT metric, '', '', '', 0, '', '' FROM monitoring_series AS single
WHERE NOT EXISTS (SELECT 1 FROM monitoring_series AS total
    WHERE total.metric = single.metric AND total.node_id = '' AND total.model_id = '')
ON CONFLICT DO NOTHING
"""
FROM_SINGLE_SERIES = """
SELECT made.* FROM unnest(%(buckets)s::timestamptz[]) AS stale (bucket) CROSS JOIN LATERAL (
    SELECT total.id, stale.bucket, sum(count), sum(sum), min(min), max(max), avg(last), serai_sum(buckets)
    FROM monitoring_rollup1m AS minute
    JOIN monitoring_series AS single ON single.id = minute.series_id AND (single.node_id, single.model_id) <> ('', '')
    JOIN monitoring_series AS total ON (total.metric, total.node_id, total.model_id) = (single.metric, '', '')
    WHERE minute.bucket = stale.bucket
    GROUP BY total.id
) AS made
"""


@dataclass(frozen=True)
class RawTable:
    """A table of raw rows, its time column, and the table whose retention limits how old a row may be to count."""

    table: Partitioned
    at: str
    retention_of: Partitioned


RAW_TABLES = [RawTable(SAMPLES, "at", SAMPLES), RawTable(USAGE_PARTITIONS, "started_at", MINUTE.table)]


def mark_stale_minutes() -> None:
    """Mark the minutes of all rows that were written since the last call."""
    for source in RAW_TABLES:
        _mark_minutes(source)


@transaction.atomic
def _mark_minutes(source: RawTable) -> None:
    Watermark.objects.get_or_create(source=source.table.table)
    watermark = Watermark.objects.select_for_update().get(source=source.table.table)
    with connection.cursor() as cursor:
        final = _oldest_open_transaction(cursor)
        seen = (
            watermark.seen if watermark.seen <= final else 0
        )  # a restored database numbers transactions from the start
        bounds: dict[str, Any] = {"level": MINUTE.name, "width": MINUTE.width, "seen": seen, "final": final}
        oldest = _oldest_kept(source.retention_of)
        cursor.execute(MARK_STALE.format(at=source.at, table=source.table.table), {**bounds, "oldest": oldest})
    watermark.seen = final
    watermark.save(update_fields=["seen"])


def _oldest_open_transaction(cursor) -> int:
    """No transaction of this database below this id is open. The order of the two queries matters: a transaction that
    ends between them is seen at the next call."""
    cursor.execute(NEWEST_TRANSACTION)
    (newest,) = cursor.fetchone()
    cursor.execute(OPEN_TRANSACTION_LAG, [newest])
    return newest - cursor.fetchone()[0]


def roll_up(level: RollupLevel) -> None:
    """Roll up the stale buckets of a level."""
    for _ in range(MAX_BATCHES):
        if _roll_batch(level) < BATCH_BUCKETS:
            break


@transaction.atomic
def _roll_batch(level: RollupLevel) -> int:
    """The newest first: after an outage the present is more urgent than the past."""
    stale = Stale.objects.filter(level=level.name).order_by("-bucket").select_for_update()
    buckets = list(stale.values_list("bucket", flat=True)[:BATCH_BUCKETS])
    if buckets:
        Stale.objects.filter(level=level.name, bucket__in=buckets).delete()
        _compute(level, buckets)
        _mark_above(level, buckets)
    return len(buckets)


def _compute(level: RollupLevel, buckets: list[datetime]) -> None:
    if level is not MINUTE:
        below = LEVELS[LEVELS.index(level) - 1]
        _upsert_select(level, FROM_BELOW.format(below=below.table.table), buckets)
        return
    _upsert_select(level, FROM_SAMPLES, buckets)
    _upsert_summaries(level, list(usage.summaries(buckets)))
    _execute(INSERT_TOTAL_SERIES)
    _upsert_select(level, FROM_SINGLE_SERIES, buckets)


def _mark_above(level: RollupLevel, buckets: list[datetime]) -> None:
    """Except buckets of which a part is no longer kept: they would be computed from the rest only."""
    if level is not LEVELS[-1]:
        above = LEVELS[LEVELS.index(level) + 1]
        oldest = _oldest_kept(level.table)
        _execute(MARK_STALE_ABOVE, {"level": above.name, "width": above.width, "buckets": buckets, "oldest": oldest})


def _upsert_select(level: RollupLevel, select: str, buckets: list[datetime]) -> None:
    _execute(UPSERT.format(table=level.table.table, select=select), {"buckets": buckets, "width": level.width})


def _upsert_summaries(level: RollupLevel, summaries: list[RollupSummary]) -> None:
    ids = samples.series_ids({row.key for row in summaries})
    rows = [
        (ids[row.key], row.bucket, row.count, row.sum, row.min, row.max, row.last, samples.array_literal(row.buckets))
        for row in summaries
    ]
    if rows:
        _execute(UPSERT.format(table=level.table.table, select=FROM_SUMMARIES), samples.columns(rows))


def _oldest_kept(table: Partitioned) -> datetime:
    return datetime.combine(table.oldest_kept(), time(), UTC)


def _execute(sql: str, parameters: dict | list | None = None) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
