"""All metrics in Prometheus' text format, read from the database, so that every process gives the same answer."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from django.db import connection

from inference.instances import gateway_reports
from monitoring.figures.catalogue import BOUNDS, METRICS, MetricKind, MetricSubject
from monitoring.models import Series

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MAX_LINES = 20_000
SHOWN_BOUNDS = (0.005, 0.01, 0.02, 0.04, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0)
LABELS = {
    "node_id": "node", "device": "device", "model_id": "model", "replica": "replica", "tenant_id": "tenant",
    "cause": "cause",
}  # fmt: skip
# The latest sample of each series that is still sampled
LATEST_SAMPLES = """
SELECT DISTINCT ON (series_id) series_id, value FROM monitoring_sample
WHERE at >= now() - greatest(interval '2 minutes', 2.5 * %s * interval '1 second') ORDER BY series_id, at DESC
"""
# Whole days, then whole hours, then minutes: each range starts where the coarser roll-up stops being complete.
# Prometheus takes a counter that falls for a reset and counts it twice, so a coarse bucket is read only if it is final.
STORED_SUMS = """
WITH stale AS (SELECT level, min(bucket) AS bucket FROM monitoring_stale GROUP BY level),
hours AS (
    SELECT date_trunc('hour', least(now(), (SELECT min(bucket) FROM stale WHERE level IN ('5m', '1h'))), 'UTC') AS until
),
days AS (
    SELECT date_trunc('day', least(until, (SELECT bucket FROM stale WHERE level = '1d')), 'UTC') AS until FROM hours
)
SELECT series_id, sum(sum), sum(count), serai_sum(buckets) FROM (
    SELECT series_id, sum, count, buckets FROM monitoring_rollup1d WHERE bucket < (SELECT until FROM days)
    UNION ALL
    SELECT series_id, sum, count, buckets FROM monitoring_rollup1h
    WHERE bucket >= (SELECT until FROM days) AND bucket < (SELECT until FROM hours)
    UNION ALL
    SELECT series_id, sum, count, buckets FROM monitoring_rollup1m WHERE bucket >= (SELECT until FROM hours)
) AS figures
WHERE series_id = ANY(%s) GROUP BY series_id
"""


@dataclass(frozen=True, order=True)
class SeriesValue:
    """The value of one series. For a histogram `value` is the sum, and `buckets` has the counts per metrics.BOUNDS."""

    labels: str
    value: float
    count: int = 1
    buckets: Sequence[int] | None = None


@dataclass(frozen=True)
class MetricFamily:
    """All series of one metric name, as Prometheus groups them."""

    name: str
    kind: MetricKind
    help: str
    figures: list[SeriesValue]

    @property
    def lines_per_series(self) -> int:
        return len(SHOWN_BOUNDS) + 3 if self.kind is MetricKind.HISTOGRAM else 1

    def lines(self, max_series: int) -> Iterator[str]:
        """The lines of at most `max_series` series."""
        shown = sorted(self.figures)[:max_series]
        if not shown:
            return
        yield f"# HELP {self.name} {self.help}"
        yield f"# TYPE {self.name} {self.kind}"
        for figure in shown:
            if self.kind is MetricKind.HISTOGRAM:
                yield from _histogram(self.name, figure)
            else:
                yield f"{self.name}{{{figure.labels}}} {figure.value:.10g}"


def render(interval: float) -> str:
    """`interval` is the time between samples in seconds. Series beyond the line limit are only counted."""
    lines: list[str] = []
    left_out = 0
    for family in [*_gateway_families(), *_stored_families(interval)]:
        room = max(MAX_LINES - len(lines), 0) // family.lines_per_series
        left_out += max(len(family.figures) - room, 0)
        lines += family.lines(room)
    lines += ["# TYPE serai_series_left_out gauge", f"serai_series_left_out {left_out}", ""]
    return "\n".join(lines)


def _gateway_families() -> Iterator[MetricFamily]:
    """The current counts of the gateways. Models with an engine are listed also without requests."""
    reports = gateway_reports.read_reports()
    gauges = {
        "serai_requests_in_flight": (reports.in_flight(), "Requests that engines work on, as gateways count them."),
        "serai_requests_waiting": (reports.waiting(), "Requests that wait for a model to start or for room."),
    }
    for name, (counts, description) in gauges.items():
        all_counts = dict.fromkeys(reports.instances, 0) | dict(counts)
        figures = [SeriesValue(f'model="{_escaped(model_id)}"', count) for model_id, count in all_counts.items()]
        yield MetricFamily(name, MetricKind.GAUGE, description, figures)


def _stored_families(interval: float) -> list[MetricFamily]:
    """Histograms last: where not everything fits, it is better to lose a distribution than a count."""
    families = [_stored_family(name, figures) for name, figures in _figures_by_metric(interval).items()]
    return sorted(families, key=lambda family: (family.kind is MetricKind.HISTOGRAM, family.name))


def _stored_family(name: str, figures: list[SeriesValue]) -> MetricFamily:
    metric = METRICS[name]
    suffix = "_total" if metric.kind is MetricKind.COUNTER else ""
    return MetricFamily(f"serai_{name}{suffix}", metric.kind, f"{metric.description} In {metric.unit}.", figures)


def _figures_by_metric(interval: float) -> dict[str, list[SeriesValue]]:
    series_of = {series.pk: series for series in Series.objects.single()}
    gauges = {pk for pk, series in series_of.items() if METRICS[series.metric].kind is MetricKind.GAUGE}
    with connection.cursor() as cursor:
        cursor.execute(LATEST_SAMPLES, [interval])
        rows = [(pk, value, 1, None) for pk, value in cursor.fetchall() if pk in gauges]
        cursor.execute(STORED_SUMS, [list(series_of.keys() - gauges)])
        rows += cursor.fetchall()
    by_metric = defaultdict(list)
    for pk, *values in rows:
        by_metric[series_of[pk].metric].append(SeriesValue(_labels(series_of[pk]), *values))
    return by_metric


def _labels(series: Series) -> str:
    labels = {label: str(getattr(series, field)) for field, label in LABELS.items() if getattr(series, field) != ""}
    if METRICS[series.metric].subject is not MetricSubject.ENGINE:
        del labels["replica"]
    return ",".join(f'{label}="{_escaped(value)}"' for label, value in labels.items())


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _histogram(name: str, figure: SeriesValue) -> Iterator[str]:
    """Prometheus buckets are cumulative: each counts the observations at or below its bound."""
    cumulative = dict(zip(BOUNDS, accumulate(figure.buckets or ()), strict=False))
    for bound in SHOWN_BOUNDS:
        yield f'{name}_bucket{{{figure.labels},le="{bound:g}"}} {cumulative.get(bound, 0)}'
    yield f'{name}_bucket{{{figure.labels},le="+Inf"}} {figure.count}'
    yield f"{name}_sum{{{figure.labels}}} {figure.value:.10g}"
    yield f"{name}_count{{{figure.labels}}} {figure.count}"
