"""Figures over a range of time, read from the roll-up that fits it."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.db.models import Max, Min, QuerySet, Sum

from monitoring.figures.catalogue import BOUNDS, METRICS, Kind
from monitoring.figures.levels import LEVELS, Level

PLACES = len(BOUNDS) + 1
USUAL_POINTS = 750  # what a range is shown in unless an interval is asked for
MOST_POINTS = 3_000  # two days of minutes
SETTLED = timedelta(minutes=15)  # after so long a bucket's roll-up has everything, but for what comes late


@dataclass
class Figures:
    """What some series of one metric did together. `low` and `high` are None where nothing was measured."""

    metric: str
    count: int = 0
    sum: float = 0.0
    low: float | None = None
    high: float | None = None
    buckets: list[int] = field(default_factory=list)  # empty unless they were asked for

    def add(self, row: dict) -> None:
        self.count += row["n"]
        self.sum += row["total"]
        self.low = row["low"] if self.low is None else min(self.low, row["low"])
        self.high = row["high"] if self.high is None else max(self.high, row["high"])
        if _BUCKETS.keys() <= row.keys():
            before = self.buckets or [0] * PLACES
            self.buckets = [known + (row[place] or 0) for known, place in zip(before, _BUCKETS, strict=True)]

    @property
    def mean(self) -> float | None:
        return self.sum / self.count if self.count else None

    @property
    def value(self) -> float | None:
        """What one point of a curve shows: counters their increase, all else the mean."""
        if not self.count:
            return None
        return self.sum if METRICS[self.metric].kind is Kind.COUNTER else self.mean

    def percentile(self, share: float) -> float | None:
        """By the histogram's counts: exact to the width of a bucket, and within what was measured."""
        wanted, below = share * sum(self.buckets), 0
        if not wanted:
            return None
        for place, count in enumerate(self.buckets):
            if below + count >= wanted:
                return self._within(place, (wanted - below) / count)
            below += count
        return self.high

    def _within(self, place: int, part: float) -> float:
        bottom = BOUNDS[place - 1] if place else 0.0
        top = BOUNDS[place] if place < len(BOUNDS) else self.high
        return min(max(bottom + part * (top - bottom), self.low), self.high)


def level_for(start: datetime, end: datetime, wanted: Level | None = None, most: int = USUAL_POINTS) -> Level:
    """The wanted level, or the finest that shows the range in `most` points; coarser where it is not kept so long."""
    fitting = (
        LEVELS[LEVELS.index(wanted) :] if wanted else [each for each in LEVELS if points(start, end, each) <= most]
    )
    kept = [level for level in fitting if level.table.oldest_kept() <= start.date()]
    return next(iter(kept or fitting[-1:]), LEVELS[-1])


def points(start: datetime, end: datetime, level: Level) -> int:
    return int((end - start) / level.width) + 1


def curves(series: QuerySet, start: datetime, end: datetime, level: Level) -> dict[datetime, dict[str, Figures]]:
    """Bucket → metric → figures of all these series together, in order of time."""
    metric_of = dict(series.values_list("pk", "metric"))
    rows = _rows(metric_of, start, end, level).values("bucket", "series_id").annotate(**_FIGURES)
    found: dict[datetime, dict[str, Figures]] = defaultdict(dict)
    for row in rows.order_by("bucket"):
        metric = metric_of[row["series_id"]]
        found[row["bucket"]].setdefault(metric, Figures(metric)).add(row)
    return found


def sums(series: QuerySet, start: datetime, end: datetime, level: Level, *labels: str) -> dict[tuple, Figures]:
    """(label …, metric) → figures over the whole range, of the series that have these labels in common."""
    key_of = {row[0]: row[1:] for row in series.values_list("pk", *labels, "metric")}
    found: dict[tuple, Figures] = {}
    for piece in pieces(start, end, level):
        for row in _rows(key_of, *piece).values("series_id").annotate(**_FIGURES, **_BUCKETS):
            key = key_of[row["series_id"]]
            found.setdefault(key, Figures(key[-1])).add(row)
    return found


def pieces(start: datetime, end: datetime, level: Level) -> Iterator[tuple[datetime, datetime, Level]]:
    """The range cut so that its middle comes from coarser roll-ups: the fewest rows that tell the same."""
    start = level.floor(start)
    if level is not LEVELS[-1]:
        coarser = LEVELS[LEVELS.index(level) + 1]
        low, high = coarser.floor(start + coarser.width - level.width), coarser.floor(end - SETTLED)
        if low < high:
            yield from _not_empty(start, low, level)
            yield from pieces(low, high, coarser)
            start = high
    yield from _not_empty(start, end, level)


def _not_empty(start: datetime, end: datetime, level: Level) -> Iterator[tuple[datetime, datetime, Level]]:
    if start < end:
        yield start, end, level


_FIGURES = {"n": Sum("count"), "total": Sum("sum"), "low": Min("min"), "high": Max("max")}
_BUCKETS = {f"place_{place}": Sum(f"buckets__{place}") for place in range(PLACES)}  # quicker than adding arrays


def _rows(series_ids: Iterable[int], start: datetime, end: datetime, level: Level) -> QuerySet:
    return level.model.objects.filter(series_id__in=list(series_ids), bucket__gte=level.floor(start), bucket__lt=end)
