"""All figures in Prometheus' text form. They come from the store, so that any of several processes tells the same."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from django.db import connection

from inference.instances import gateway_reports
from monitoring.figures.catalogue import BOUNDS, METRICS, Kind, Subject
from monitoring.models import Series

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MOST_LINES = 20_000
SHOWN_BOUNDS = (0.005, 0.01, 0.02, 0.04, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0)
LABELS = {
    "node_id": "node", "device": "device", "model_id": "model", "replica": "replica", "tenant_id": "tenant",
    "cause": "cause",
}  # fmt: skip
# The latest sample of each series that is still sampled
LATEST = """
SELECT DISTINCT ON (series_id) series_id, value FROM monitoring_sample
WHERE at >= now() - greatest(interval '2 minutes', 2.5 * %s * interval '1 second') ORDER BY series_id, at DESC
"""
# Whole days, then whole hours, then minutes: each from where the coarser roll-up has everything. A counter that fell
# for a moment would be counted twice by whoever reads it, so nothing that is still to be rolled is taken for granted.
SUMS = """
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
class Figure:
    """One series now. Of a histogram `value` is the sum, and `buckets` are counted as in metrics.BOUNDS."""

    labels: str
    value: float
    count: int = 1
    buckets: Sequence[int] | None = None


@dataclass(frozen=True)
class Family:
    """The series of one name, as Prometheus groups them."""

    name: str
    kind: Kind
    help: str
    figures: list[Figure]

    @property
    def lines_each(self) -> int:
        return len(SHOWN_BOUNDS) + 3 if self.kind is Kind.HISTOGRAM else 1

    def lines(self, most: int) -> Iterator[str]:
        """Of so many series at most."""
        shown = sorted(self.figures)[:most]
        if not shown:
            return
        yield f"# HELP {self.name} {self.help}"
        yield f"# TYPE {self.name} {self.kind}"
        for figure in shown:
            if self.kind is Kind.HISTOGRAM:
                yield from _histogram(self.name, figure)
            else:
                yield f"{self.name}{{{figure.labels}}} {figure.value:.10g}"


def render(interval: float) -> str:
    """`interval` is the seconds between samples. Labels are ids; beyond MOST_LINES series are left out and counted."""
    lines, left_out = [], 0
    for family in [*_now(), *_stored(interval)]:
        room = max(MOST_LINES - len(lines), 0) // family.lines_each
        left_out += max(len(family.figures) - room, 0)
        lines += family.lines(room)
    lines += ["# TYPE serai_series_left_out gauge", f"serai_series_left_out {left_out}", ""]
    return "\n".join(lines)


def _now() -> Iterator[Family]:
    """What gateways say of this second; models with an engine are told of at rest too."""
    known = gateway_reports.read()
    told = {
        "serai_requests_in_flight": (known.in_flight(), "Requests that engines work on, as gateways count them."),
        "serai_requests_waiting": (known.waiting(), "Requests that wait for a model to start or for room."),
    }
    for name, (counts, meaning) in told.items():
        counts = Counter(dict.fromkeys(known.instances, 0)) | dict(counts)
        figures = [Figure(f'model="{_escaped(model_id)}"', count) for model_id, count in counts.items()]
        yield Family(name, Kind.GAUGE, meaning, figures)


def _stored(interval: float) -> list[Family]:
    """Histograms last: where not all fits, it is better to miss a distribution than a count."""
    families = [_family(name, figures) for name, figures in _by_metric(interval).items()]
    return sorted(families, key=lambda family: (family.kind is Kind.HISTOGRAM, family.name))


def _family(name: str, figures: list[Figure]) -> Family:
    metric = METRICS[name]
    suffix = "_total" if metric.kind is Kind.COUNTER else ""
    return Family(f"serai_{name}{suffix}", metric.kind, f"{metric.description} In {metric.unit}.", figures)


def _by_metric(interval: float) -> dict[str, list[Figure]]:
    series = {each.pk: each for each in Series.objects.single()}
    gauges = {pk for pk, each in series.items() if METRICS[each.metric].kind is Kind.GAUGE}
    with connection.cursor() as cursor:
        cursor.execute(LATEST, [interval])
        rows = [(pk, value, 1, None) for pk, value in cursor.fetchall() if pk in gauges]
        cursor.execute(SUMS, [list(series.keys() - gauges)])
        rows += cursor.fetchall()
    found = defaultdict(list)
    for pk, *figures in rows:
        found[series[pk].metric].append(Figure(_labels(series[pk]), *figures))
    return found


def _labels(series: Series) -> str:
    told = {label: str(getattr(series, field)) for field, label in LABELS.items() if getattr(series, field) != ""}
    if METRICS[series.metric].subject is not Subject.ENGINE:
        del told["replica"]
    return ",".join(f'{label}="{_escaped(value)}"' for label, value in told.items())


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _histogram(name: str, figure: Figure) -> Iterator[str]:
    """Prometheus counts what lies at or below each bound."""
    below = dict(zip(BOUNDS, accumulate(figure.buckets or ()), strict=False))
    for bound in SHOWN_BOUNDS:
        yield f'{name}_bucket{{{figure.labels},le="{bound:g}"}} {below.get(bound, 0)}'
    yield f'{name}_bucket{{{figure.labels},le="+Inf"}} {figure.count}'
    yield f"{name}_sum{{{figure.labels}}} {figure.value:.10g}"
    yield f"{name}_count{{{figure.labels}}} {figure.count}"
