"""The gateways' metrics: sums of the usage ledger per minute, model and tenant. They have no other source."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from itertools import groupby

from django.db.models import Count, F, FloatField, Func, IntegerField, Max, Min, Q, QuerySet, Sum, Value
from django.db.models.functions import TruncMinute

from inference.models import UsageRecord
from inference.usage import FAILED, LOST, REJECTED
from monitoring.figures.catalogue import BOUNDS
from monitoring.figures.samples import RollupSummary, SeriesKey

MINUTE = timedelta(minutes=1)
GROUP = ["minute", "tenant_id", "model_id"]
COUNTERS = {
    "requests": Count("request_id"),
    "prompt_tokens": Sum("prompt_tokens"),
    "completion_tokens": Sum("completion_tokens"),
    "cached_tokens": Sum("cached_tokens"),
}
HISTOGRAMS = {"response_time": "duration_ms", "time_to_first_token": "ttft_ms", "queue_time": "queue_ms"}
ANSWERED = ~Q(status__in=[LOST, REJECTED])  # the others have no meaningful duration


class BucketIndex(Func):
    """The index of the first of BOUNDS that is not below a whole number of milliseconds."""

    function, output_field = "width_bucket", IntegerField()

    def __init__(self, milliseconds: str):
        limits = Value([bound * 1000 for bound in BOUNDS])
        just_below = F(milliseconds) - Value(0.5, output_field=FloatField())  # width_bucket takes lower bounds
        super().__init__(just_below, limits)


def summaries(minutes: Iterable[datetime]) -> Iterator[RollupSummary]:
    """The metrics of the requests that began in these minutes."""
    for _hour, minutes_of_hour in groupby(sorted(minutes), lambda minute: minute.replace(minute=0)):
        records = _records(list(minutes_of_hour))
        yield from _counters(records)
        yield from _failures(records)
        for metric, field in HISTOGRAMS.items():
            yield from _histograms(records, metric, field)


def _records(minutes: list[datetime]) -> QuerySet:
    """`minutes` lie in one hour. Filters by day and time, because the table is partitioned by day."""
    begin, end = minutes[0], minutes[-1] + MINUTE
    within = UsageRecord.objects.filter(started_on=begin.date(), started_at__gte=begin, started_at__lt=end)
    return within.annotate(minute=TruncMinute("started_at")).filter(minute__in=minutes)


def _counters(records: QuerySet) -> Iterator[RollupSummary]:
    for row in records.values(*GROUP).annotate(**{f"n_{name}": total for name, total in COUNTERS.items()}):
        for name in COUNTERS:
            yield _counter_summary(_key(name, row), row["minute"], row[f"n_{name}"])


def _failures(records: QuerySet) -> Iterator[RollupSummary]:
    for row in records.filter(FAILED).values(*GROUP, "status").annotate(failed=Count("request_id")):
        yield _counter_summary(_key("failed_requests", row, cause=row["status"]), row["minute"], row["failed"])


def _counter_summary(key: SeriesKey, minute: datetime, total: int) -> RollupSummary:
    increase = float(total)
    return RollupSummary(key, minute, count=1, sum=increase, min=increase, max=increase, last=increase)


def _histograms(records: QuerySet, metric: str, field: str) -> Iterator[RollupSummary]:
    aggregates = {"n": Count(field), "total": Sum(field), "low": Min(field), "high": Max(field)}
    answered = records.filter(ANSWERED, **{f"{field}__isnull": False})
    groups = defaultdict(list)
    for row in answered.annotate(place=BucketIndex(field)).values(*GROUP, "place").annotate(**aggregates):
        groups[_key(metric, row), row["minute"]].append(row)
    for (key, minute), rows in groups.items():
        yield _histogram_summary(key, minute, rows)


def _histogram_summary(key: SeriesKey, minute: datetime, rows: list[dict]) -> RollupSummary:
    """`rows` has one row for each bucket that is not empty. The summary is in seconds."""
    buckets = [0] * (len(BOUNDS) + 1)
    for row in rows:
        buckets[row["place"]] = row["n"]
    count, total = sum(buckets), sum(row["total"] for row in rows) / 1000
    low, high = min(row["low"] for row in rows) / 1000, max(row["high"] for row in rows) / 1000
    return RollupSummary(key, minute, count, total, low, high, last=total / count, buckets=buckets)


def _key(metric: str, row: dict, cause: str = "") -> SeriesKey:
    return SeriesKey(metric, model_id=row["model_id"], tenant_id=row["tenant_id"], cause=cause)
