"""The cost of the monitoring routes with a month of metrics: 20 machines with 8 GPUs each, about 8 million minutes.

Works in a temporary database on the configured server. Times in milliseconds; CPU is that of
the answering process and of its database backend together.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import psutil
from django.db import DatabaseError, connection

from accounts.actor import Actor
from accounts.models import Tenant
from benchmarks import CannotMeasure
from models_app.models import Model
from monitoring.figures import reports, rollups
from monitoring.figures.catalogue import BOUNDS, METRICS, MetricKind
from monitoring.figures.levels import LEVELS, LEVELS_BY_NAME
from monitoring.models import Rollup1m, Stale

COLUMNS = {
    "median_ms": "median ms", "cpu_ms": "CPU ms", "slowest_ms": "slowest ms", "goal_ms": "goal ms", "points": "points",
    "bucket_s": "bucket s", "answers": "answers",
}  # fmt: skip
DATABASE = "serai_bench_figures"
GOAL = 200.0
NODES, GPUS, DAYS, MODELS = 20, 8, 30, 50
OPERATOR = Actor(tenant=None, role=None, is_operator=True, sees_all=True)
END = datetime.now(UTC).replace(second=0, microsecond=0)
START = END - timedelta(days=DAYS)
METRIC_RANGES = [(timedelta(hours=1), None), (timedelta(days=1), None), (timedelta(days=1), "1m"),
                 (timedelta(days=7), None), (timedelta(days=2), "1m"), (timedelta(days=30), None),
                 (timedelta(days=30), "1d")]  # fmt: skip

NEW_SERIES = """
INSERT INTO monitoring_series (metric, node_id, device, model_id, replica, tenant_id, cause)
SELECT 'gpu_utilization', 'node-' || node, 'cuda:' || gpu, '', 0, '', ''
FROM generate_series(1, %(nodes)s) AS node, generate_series(1, %(gpus)s) AS gpu
UNION ALL SELECT 'cpu_percent', 'node-' || node, '', '', 0, '', '' FROM generate_series(1, %(nodes)s) AS node
UNION ALL SELECT metric, '', '', id, 0, tenant_id, '' FROM models_app_model, unnest(%(metrics)s::text[]) AS metric
"""
MINUTES = """
INSERT INTO monitoring_rollup1m (series_id, bucket, count, sum, min, max, last)
SELECT id, minute, 2, 2 * value, value - 1, value + 1, value
FROM generate_series(%(start)s, %(end)s - interval '1 minute', interval '1 minute') AS minute,
    monitoring_series, LATERAL (SELECT 50 + 40 * sin(id + extract(epoch FROM minute) / 9000) AS value) AS wave
WHERE node_id <> ''
"""
REQUESTS = """
INSERT INTO {table} (series_id, bucket, count, sum, min, max, last, buckets)
SELECT id, bucket, 100, 50, 0.1, 2.1, 0.5, CASE WHEN metric = ANY(%(histograms)s) THEN %(counts)s::bigint[] END
FROM generate_series(%(since)s, %(end)s, %(width)s) AS bucket, monitoring_series WHERE model_id <> ''
"""


def run(*, seconds: float, rounds: int, report: Callable[[str], None]) -> dict:
    """At least `rounds` calls of each query, at most 20 times as many within `seconds`. Raises CannotMeasure."""
    with _temporary_database():
        report("a month of figures is made …")
        _insert_month()
        report("its roll-ups are made …")
        roll_up_seconds = _roll_up()
        connection.cursor().execute("ANALYZE")
        results = {name: {"operator": _measure(query, seconds, rounds)} for name, query in _queries()}
    slowest = max(row["operator"]["slowest_ms"] for row in results.values())
    ratios = {"slowest_to_goal": round(slowest / GOAL, 3), "seconds_to_roll_a_month": round(roll_up_seconds, 1)}
    return {"scenarios": results, "ratios": ratios}


@contextmanager
def _temporary_database() -> Iterator[None]:
    before = connection.settings_dict["NAME"]
    connection.settings_dict["TEST"]["NAME"] = DATABASE
    try:
        connection.creation.create_test_db(verbosity=0, autoclobber=True, serialize=False)
    except (DatabaseError, SystemExit) as error:
        raise CannotMeasure(f"A database is needed in which others can be made ({error}).") from None
    try:
        yield
    finally:
        connection.creation.destroy_test_db(before, verbosity=0)


def _insert_month() -> None:
    tenant = Tenant.objects.create(slug="bench", name="Bench")
    Model.objects.bulk_create(Model(tenant=tenant, name=f"model-{number}") for number in range(MODELS))
    histograms = [name for name in reports.REQUEST_METRICS if METRICS[name].kind is MetricKind.HISTOGRAM]
    counts = [0] * (len(BOUNDS) + 1)
    counts[8:18] = [10] * 10
    shared: dict[str, Any] = {"nodes": NODES, "gpus": GPUS, "start": START, "end": END}
    shared |= {"metrics": reports.REQUEST_METRICS, "histograms": histograms, "counts": counts}
    for day in range(DAYS + 1):
        for level in LEVELS:
            level.table.make((START + timedelta(days=day)).date())
    with connection.cursor() as cursor:
        cursor.execute(NEW_SERIES, shared)
        cursor.execute(MINUTES, shared)
        for name, since in (("1m", timedelta(hours=1)), ("5m", timedelta(days=1)), ("1h", timedelta(days=DAYS))):
            level = LEVELS_BY_NAME[name]
            query = REQUESTS.format(table=level.table.table)
            parameters = shared | {"since": level.floor(END - since), "width": level.width}
            cursor.execute(query, parameters)


def _roll_up() -> float:
    """Make all roll-ups, as after a month without a scheduler. Returns the seconds it took."""
    begun = time.monotonic()
    minutes = Rollup1m.objects.values_list("bucket", flat=True).distinct()
    Stale.objects.bulk_create(Stale(level="1m", bucket=minute) for minute in minutes)
    while Stale.objects.exists():
        for level in LEVELS:
            rollups.roll_up(level)
    return time.monotonic() - begun


def _queries() -> Iterator[tuple[str, Callable[[], dict]]]:
    for over, interval in METRIC_RANGES:
        name = f"metrics {int(over.total_seconds() // 3600)} h" + (f" at {interval}" if interval else "")
        yield name, partial(reports.metrics, OPERATOR, start_time=END - over, end_time=END, interval=interval)
    for time_range in reports.TIME_RANGES:
        yield f"performance {time_range}", partial(reports.performance, OPERATOR, time_range=time_range)


def _measure(query: Callable[[], dict], seconds: float, rounds: int) -> dict:
    answer = query()
    times: list[float] = []
    backend = _backend()
    cpu, until = _cpu(backend), time.monotonic() + seconds
    while len(times) < rounds or (len(times) < 20 * rounds and time.monotonic() < until):
        begun = time.monotonic()
        answer = query()
        times.append((time.monotonic() - begun) * 1000)
    level = LEVELS_BY_NAME.get(answer.get("interval", ""))
    return {
        "median_ms": statistics.median(times),
        "slowest_ms": max(times),
        "cpu_ms": (_cpu(backend) - cpu) / len(times) * 1000,
        "goal_ms": GOAL,
        "points": len(answer.get("metrics") or answer["models"]),
        "bucket_s": level.seconds if level else None,
        "answers": len(times),
    }


def _backend() -> psutil.Process | None:
    """The server process of this connection; None if the server is on another machine."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        (pid,) = cursor.fetchone()
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        return process if "postgres" in process.name() else None
    return None


def _cpu(backend: psutil.Process | None) -> float:
    """CPU seconds of this process and of the backend, which a busy machine does not lengthen."""
    spent = backend.cpu_times() if backend else None
    return time.process_time() + (spent.user + spent.system if spent else 0.0)
