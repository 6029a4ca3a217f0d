"""Reads metrics over a time range from the roll-up that fits the range."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.db.models import Max, Min, QuerySet, Sum

from monitoring.figures.catalogue import BOUNDS, METRICS, MetricKind
from monitoring.figures.levels import LEVELS, RollupLevel

BUCKET_COUNT = len(BOUNDS) + 1
DEFAULT_POINTS = 750  # the limit for a range without a requested interval
MAX_POINTS = 3_000  # two days of minutes
COMPLETE_AFTER = timedelta(minutes=15)  # after this time a bucket is complete, except for late samples


@dataclass
class MetricAggregate:
    """The aggregate of some series of one metric. `low` and `high` are None where nothing was measured."""

    metric: str
    count: int = 0
    sum: float = 0.0
    low: float | None = None
    high: float | None = None
    buckets: list[int] = field(default_factory=list)  # empty unless requested

    def add(self, row: dict) -> None:
        self.count += row["n"]
        self.sum += row["total"]
        self.low = row["low"] if self.low is None else min(self.low, row["low"])
        self.high = row["high"] if self.high is None else max(self.high, row["high"])
        if _BUCKETS.keys() <= row.keys():
            counts = self.buckets or [0] * BUCKET_COUNT
            self.buckets = [count + (row[name] or 0) for count, name in zip(counts, _BUCKETS, strict=True)]

    @property
    def mean(self) -> float | None:
        return self.sum / self.count if self.count else None

    @property
    def value(self) -> float | None:
        """The value of one point of a curve: the increase of a counter, the mean of other kinds."""
        if not self.count:
            return None
        return self.sum if METRICS[self.metric].kind is MetricKind.COUNTER else self.mean

    def percentile(self, share: float) -> float | None:
        """From the histogram buckets: exact to the width of a bucket, and between `low` and `high`."""
        rank, below = share * sum(self.buckets), 0
        if not rank or self.low is None or self.high is None:
            return None
        for bucket, count in enumerate(self.buckets):
            if below + count >= rank:
                value = _interpolate(bucket, (rank - below) / count, self.high)
                return min(max(value, self.low), self.high)
            below += count
        return self.high


def _interpolate(bucket: int, fraction: float, high: float) -> float:
    """The value at this fraction of the bucket; the last bucket ends at `high`."""
    lower = BOUNDS[bucket - 1] if bucket else 0.0
    upper = BOUNDS[bucket] if bucket < len(BOUNDS) else high
    return lower + fraction * (upper - lower)


def level_for(
    start: datetime, end: datetime, wanted: RollupLevel | None = None, max_points: int = DEFAULT_POINTS
) -> RollupLevel:
    """The wanted level, or the finest with at most `max_points`; a coarser one if that one is not kept so long."""
    if wanted:
        fitting = LEVELS[LEVELS.index(wanted) :]
    else:
        fitting = [level for level in LEVELS if point_count(start, end, level) <= max_points]
    kept = [level for level in fitting if level.table.oldest_kept() <= start.date()]
    return next(iter(kept or fitting[-1:]), LEVELS[-1])


def point_count(start: datetime, end: datetime, level: RollupLevel) -> int:
    return int((end - start) / level.width) + 1


def curves(
    series: QuerySet, start: datetime, end: datetime, level: RollupLevel
) -> dict[datetime, dict[str, MetricAggregate]]:
    """Bucket → metric → aggregate of all these series, in order of time."""
    metric_of = dict(series.values_list("pk", "metric"))
    rows = _rows(metric_of, start, end, level).values("bucket", "series_id").annotate(**_AGGREGATES)
    by_bucket: dict[datetime, dict[str, MetricAggregate]] = defaultdict(dict)
    for row in rows.order_by("bucket"):
        metric = metric_of[row["series_id"]]
        by_bucket[row["bucket"]].setdefault(metric, MetricAggregate(metric)).add(row)
    return by_bucket


def sums(
    series: QuerySet, start: datetime, end: datetime, level: RollupLevel, *labels: str
) -> dict[tuple, MetricAggregate]:
    """(label …, metric) → aggregate over the whole range of the series that share these labels."""
    key_of = {row[0]: row[1:] for row in series.values_list("pk", *labels, "metric")}
    by_key: dict[tuple, MetricAggregate] = {}
    for piece in split_range(start, end, level):
        for row in _rows(key_of, *piece).values("series_id").annotate(**_AGGREGATES, **_BUCKETS):
            key = key_of[row["series_id"]]
            by_key.setdefault(key, MetricAggregate(key[-1])).add(row)
    return by_key


def split_range(start: datetime, end: datetime, level: RollupLevel) -> Iterator[tuple[datetime, datetime, RollupLevel]]:
    """Splits the range so that its middle is read from coarser roll-ups: the same result from the fewest rows."""
    start = level.floor(start)
    if level is not LEVELS[-1]:
        coarser = LEVELS[LEVELS.index(level) + 1]
        low, high = coarser.floor(start + coarser.width - level.width), coarser.floor(end - COMPLETE_AFTER)
        if low < high:
            yield from _unless_empty(start, low, level)
            yield from split_range(low, high, coarser)
            start = high
    yield from _unless_empty(start, end, level)


def _unless_empty(
    start: datetime, end: datetime, level: RollupLevel
) -> Iterator[tuple[datetime, datetime, RollupLevel]]:
    if start < end:
        yield start, end, level


_AGGREGATES = {"n": Sum("count"), "total": Sum("sum"), "low": Min("min"), "high": Max("max")}
_BUCKETS = {f"place_{place}": Sum(f"buckets__{place}") for place in range(BUCKET_COUNT)}  # faster than adding arrays


def _rows(series_ids: Iterable[int], start: datetime, end: datetime, level: RollupLevel) -> QuerySet:
    return level.model.objects.filter(series_id__in=list(series_ids), bucket__gte=level.floor(start), bucket__lt=end)
