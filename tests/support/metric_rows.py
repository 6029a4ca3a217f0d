"""Samples, usage and roll-ups for the tests of monitoring, written as agents and gateways write them."""

import uuid
from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection

from inference.models import UsageRecord
from monitoring import models
from monitoring.figures import rollups, samples
from monitoring.figures.levels import LEVELS, LEVELS_BY_NAME
from monitoring.figures.samples import NewSample, SeriesKey
from monitoring.models import Series, Stale, Watermark

PARTITIONED = ["monitoring_sample", "inference_usagerecord", *(level.table.table for level in LEVELS)]
NOW = datetime.now(UTC).replace(second=0, microsecond=0)


@pytest.fixture
def store(transactional_db):
    """Empty tables and real commits: rows of an open transaction are not rolled up."""
    empty()
    for model in (Series, Stale, Watermark):
        model.objects.all().delete()
    yield
    empty()


def empty() -> None:
    """Truncate the tables that Django does not manage, which its flush after a test with real commits skips."""
    with connection.cursor() as cursor:
        cursor.execute(f"TRUNCATE {', '.join(PARTITIONED)}")


def sample(metric: str, at: datetime, value: float, count: int = 1, buckets=None, **key) -> NewSample:
    key = {"node_id": "node-1"} | key
    return NewSample(SeriesKey(metric, **key), at, value, count, buckets)


def measure(*wanted, **key) -> None:
    """Write one sample."""
    samples.write_samples([sample(*wanted, **key)])


def used(at: datetime, **fields) -> UsageRecord:
    options = {
        "request_id": uuid.uuid4(), "started_on": at.date(), "started_at": at, "tenant_id": "tenant-a",
        "model_id": "model-a", "model_name": "a", "route": "chat", "stream": False, "status": "ok", "http_status": 200,
        "prompt_tokens": 10, "completion_tokens": 5, "cached_tokens": 4, "duration_ms": 200, "ttft_ms": 50,
    }  # fmt: skip
    return UsageRecord.objects.create(**{**options, **fields})


def roll(times: int = 1) -> None:
    """Roll up all levels, as the scheduler does."""
    for _ in range(times):
        rollups.mark_stale_minutes()
        for level in LEVELS:
            rollups.roll_up(level)


def rolled(level: str, metric: str, **key) -> list[tuple]:
    """(bucket, count, sum, min, max, last) of a single series, in order of time."""
    model = LEVELS_BY_NAME[level].model
    rows = model.objects.filter(series__in=Series.objects.single().filter(metric=metric, **key)).order_by("bucket")
    return list(rows.values_list("bucket", "count", "sum", "min", "max", "last"))


def everything() -> dict[str, set]:
    """All roll-ups by label, not by series id; floats are rounded: their last digits depend on the order of sums."""
    labels = [f"series__{name}" for name in ("metric", "node_id", "device", "model_id", "tenant_id", "cause")]
    figures = ["bucket", "count", "sum", "min", "max", "last"]
    found = {}
    for level in LEVELS:
        rows = level.model.objects.values(*labels, *figures, "buckets")
        found[level.name] = {tuple(_rounded(value) for value in row.values()) for row in rows}
    return found


def _rounded(value):
    if isinstance(value, float):
        return round(value, 6)
    return tuple(value) if isinstance(value, list) else value


def minutes_ago(minutes: float) -> datetime:
    return NOW - timedelta(minutes=minutes)


def raw(metric: str) -> int:
    return models.Sample.objects.filter(series__metric=metric).count()
