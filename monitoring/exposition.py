"""All figures in Prometheus' text form. They come from the store, so that any of several processes tells the same."""

from collections import defaultdict
from collections.abc import Iterator

from django.db import connection

from monitoring.metrics import METRICS, Kind, Subject
from monitoring.models import Series

TYPES = {Kind.GAUGE: "gauge", Kind.COUNTER: "counter", Kind.HISTOGRAM: "summary"}
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MOST_LINES = 10_000
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
SELECT series_id, sum(sum), sum(count) FROM (
    SELECT series_id, sum, count FROM monitoring_rollup1d WHERE bucket < (SELECT until FROM days)
    UNION ALL
    SELECT series_id, sum, count FROM monitoring_rollup1h
    WHERE bucket >= (SELECT until FROM days) AND bucket < (SELECT until FROM hours)
    UNION ALL
    SELECT series_id, sum, count FROM monitoring_rollup1m WHERE bucket >= (SELECT until FROM hours)
) AS figures
WHERE series_id = ANY(%s) GROUP BY series_id
"""


def render(interval: float) -> str:
    """`interval` is the seconds between samples. Labels are ids; beyond MOST_LINES series are left out and counted."""
    lines, left_out = [], 0
    for metric, samples in sorted(_by_metric(interval).items()):
        room = max(MOST_LINES - len(lines), 0)
        left_out += len(samples[room:])
        lines += _family(metric, samples[:room])
    lines += ["# TYPE serai_series_left_out gauge", f"serai_series_left_out {left_out}", ""]
    return "\n".join(lines)


def _by_metric(interval: float) -> dict[str, list[tuple[str, float, int]]]:
    """Metric → (labels, value or sum, count) of each series."""
    series = {each.pk: each for each in Series.objects.single()}
    gauges = {pk for pk, each in series.items() if METRICS[each.metric].kind is Kind.GAUGE}
    with connection.cursor() as cursor:
        cursor.execute(LATEST, [interval])
        rows = [(pk, value, 1) for pk, value in cursor.fetchall() if pk in gauges]
        cursor.execute(SUMS, [list(series.keys() - gauges)])
        rows += cursor.fetchall()
    found = defaultdict(list)
    for pk, value, count in rows:
        found[series[pk].metric].append((_labels(series[pk]), value, count))
    return found


def _labels(series: Series) -> str:
    told = {label: str(getattr(series, field)) for field, label in LABELS.items() if getattr(series, field) != ""}
    if METRICS[series.metric].subject is not Subject.ENGINE:
        del told["replica"]
    return ",".join(f'{label}="{_escaped(value)}"' for label, value in told.items())


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _family(name: str, samples: list[tuple[str, float, int]]) -> Iterator[str]:
    if not samples:
        return
    metric = METRICS[name]
    suffix = {Kind.COUNTER: "_total", Kind.HISTOGRAM: "_sum"}.get(metric.kind, "")
    family = f"serai_{name}" + ("_total" if metric.kind is Kind.COUNTER else "")
    yield f"# HELP {family} {metric.description} In {metric.unit}."
    yield f"# TYPE {family} {TYPES[metric.kind]}"
    for labels, value, count in sorted(samples):
        yield f"serai_{name}{suffix}{{{labels}}} {value:.10g}"
        if metric.kind is Kind.HISTOGRAM:
            yield f"serai_{name}_count{{{labels}}} {count}"
