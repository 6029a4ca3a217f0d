"""Writes samples and finds the ids of series, in batches. A sample that is written twice counts once."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from django.db import connection, transaction


@dataclass(frozen=True)
class SeriesKey:
    """The labels of a series, as in models.Series."""

    metric: str
    node_id: str = ""
    device: str = ""
    model_id: str = ""
    replica: int = 0
    tenant_id: str = ""
    cause: str = ""

    def columns(self) -> tuple:
        return (self.metric, self.node_id, self.device, self.model_id, self.replica, self.tenant_id, self.cause)


@dataclass(frozen=True)
class NewSample:
    """One measurement, as in models.Sample."""

    key: SeriesKey
    at: datetime
    value: float
    count: int = 1
    buckets: Sequence[int] | None = None


@dataclass(frozen=True)
class RollupSummary:
    """One row of a roll-up, as in models.Rollup."""

    key: SeriesKey
    bucket: datetime
    count: int
    sum: float
    min: float
    max: float
    last: float
    buckets: Sequence[int] | None = None


FIELDS = "metric, node_id, device, model_id, replica, tenant_id, cause"
WANTED_SERIES = (
    f"unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::int[], %s::text[], %s::text[]) AS wanted ({FIELDS})"
)
FIND_SERIES = f"SELECT {FIELDS}, id FROM {WANTED_SERIES} JOIN monitoring_series USING ({FIELDS})"
NEW_SERIES = f"INSERT INTO monitoring_series ({FIELDS}) SELECT {FIELDS} FROM {WANTED_SERIES} ON CONFLICT DO NOTHING"
INSERT_SAMPLES = """
INSERT INTO monitoring_sample (series_id, at, value, count, buckets)
SELECT series_id, at, value, count, buckets::bigint[]
FROM unnest(%s::int[], %s::timestamptz[], %s::float8[], %s::int[], %s::text[])
    AS new (series_id, at, value, count, buckets)
ON CONFLICT DO NOTHING
"""


@transaction.atomic
def write_samples(samples: Collection[NewSample]) -> None:
    ids = series_ids({sample.key for sample in samples})
    rows = [
        (ids[sample.key], sample.at, float(sample.value), sample.count, array_literal(sample.buckets))
        for sample in samples
    ]
    if rows:
        with connection.cursor() as cursor:
            cursor.execute(INSERT_SAMPLES, columns(rows))


def series_ids(keys: Collection[SeriesKey]) -> dict[SeriesKey, int]:
    """The id of each series. Creates those that do not exist."""
    found = _find(keys)
    if missing := sorted(
        set(keys) - found.keys(), key=SeriesKey.columns
    ):  # in one order, so that writers cannot deadlock
        with connection.cursor() as cursor:
            cursor.execute(NEW_SERIES, columns([key.columns() for key in missing]))
        found |= _find(missing)
    return found


def _find(keys: Collection[SeriesKey]) -> dict[SeriesKey, int]:
    if not keys:
        return {}
    with connection.cursor() as cursor:
        cursor.execute(FIND_SERIES, columns([key.columns() for key in keys]))
        return {SeriesKey(*row[:-1]): row[-1] for row in cursor.fetchall()}


def columns(rows: Sequence[Sequence]) -> list[list]:
    """One list for each column, as `unnest` takes them."""
    return [list(column) for column in zip(*rows, strict=True)]


def array_literal(buckets: Sequence[int] | None) -> str | None:
    """As text, because in an array of arrays all must have the same length."""
    return None if buckets is None else "{" + ",".join(map(str, buckets)) + "}"
