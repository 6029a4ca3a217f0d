"""Metrics reports of the service API (`/api`): curves with a summary, and the performance of each model."""

from datetime import datetime, timedelta

from django.db.models import Q, QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _

from accounts.actor import Actor
from core.errors import InvalidRequest
from models_app.models import Model
from monitoring.figures import queries
from monitoring.figures.catalogue import METRICS, MetricKind, MetricSubject
from monitoring.figures.levels import LEVELS_BY_NAME
from monitoring.figures.queries import MetricAggregate
from monitoring.models import Series

METRIC_TYPES = {
    "gpu": ["gpu_utilization", "gpu_memory_used", "gpu_memory_percent", "gpu_temperature", "gpu_power"],
    "cpu": ["cpu_percent"],
    "memory": ["memory_percent", "memory_used"],
    "model": [
        "requests", "failed_requests", "response_time", "time_to_first_token", "queue_time",
        "prompt_tokens", "completion_tokens", "cached_tokens", "engine_running", "engine_waiting", "engine_kv_usage",
    ],
}  # fmt: skip
DEFAULT_RANGE = timedelta(hours=1)
TIME_RANGES = {
    "1h": timedelta(hours=1),
    "24h": timedelta(days=1),
    "7d": timedelta(days=7),
    "30d": timedelta(days=30),
}
PERCENTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
SYSTEM_METRICS = ["cpu_percent", "memory_percent", "gpu_utilization"]
REQUEST_METRICS = [name for name, metric in METRICS.items() if metric.subject is MetricSubject.REQUESTS]


def metrics(
    actor: Actor,
    *,
    start_time: datetime | None = None,
    end_time: datetime | None = None,
    metric_type: str | None = None,
    interval: str | None = None,
) -> dict:
    """One point per bucket with data. Means are over all devices; `max_…` is the maximum of a single device."""
    end = end_time or (start_time + DEFAULT_RANGE if start_time else timezone.now())
    start = start_time or end - DEFAULT_RANGE
    level = queries.level_for(start, end, LEVELS_BY_NAME.get(interval) if interval else None)
    if queries.point_count(start, end, level) > queries.MAX_POINTS:
        limit = {"most": queries.MAX_POINTS, "name": level.name}
        raise InvalidRequest(
            _("At most %(most)d points: choose a longer interval than %(name)s.") % limit, param="interval"
        )
    names = METRIC_TYPES[metric_type] if metric_type else [name for group in METRIC_TYPES.values() for name in group]
    series = _visible_series(actor, names)
    curves = queries.curves(series, start, end, level)
    return {
        "interval": level.name,
        "metrics": [{"timestamp": bucket, **_point(names, aggregates)} for bucket, aggregates in curves.items()],
        "summary": _summary(names, queries.sums(series, start, end, level)),
    }


def _visible_series(actor: Actor, names: list[str]) -> QuerySet:
    """Totals of all machines for all users. Totals of all models for operators, else the tenant's traffic."""
    series = Series.objects.filter(metric__in=names)
    if actor.sees_all:
        return series.totals()
    machine_metrics = [name for name in names if METRICS[name].subject in (MetricSubject.HOST, MetricSubject.GPU)]
    return series.filter(Q(metric__in=machine_metrics, node_id="", model_id="") | _own_traffic(actor))


def _own_traffic(actor: Actor) -> Q:
    """All series of the tenant's own models, and its own requests to the models of other tenants."""
    usable = Model.objects.usable_by(actor)
    own = Q(model_id__in=usable.filter(tenant=actor.tenant).values("pk"))
    if actor.tenant is None:
        return own
    return own | Q(model_id__in=usable.values("pk"), tenant_id=actor.tenant.pk)


def _point(names: list[str], aggregates: dict[str, MetricAggregate]) -> dict:
    return {name: _rounded(aggregates[name].value) if name in aggregates else None for name in names}


def _summary(names: list[str], aggregates: dict[tuple, MetricAggregate]) -> dict:
    summary = {}
    for name in names:
        total = aggregates.get((name,), MetricAggregate(name))
        if METRICS[name].kind is MetricKind.COUNTER:
            summary[f"total_{name}"] = _rounded(total.sum)
        else:
            summary |= {f"avg_{name}": _rounded(total.mean), f"max_{name}": _rounded(total.high)}
        if METRICS[name].kind is MetricKind.HISTOGRAM:
            summary |= _percentiles(name, total)
    return summary


def _percentiles(name: str, aggregate: MetricAggregate) -> dict:
    return {f"{label}_{name}": _rounded(aggregate.percentile(share)) for label, share in PERCENTILES.items()}


def performance(actor: Actor, *, model: Model | None = None, time_range: str = "24h") -> dict:
    """Of each model that had requests in this time range, or of the given one; and the means of all machines."""
    end = timezone.now()
    start = end - TIME_RANGES[time_range]
    level = queries.level_for(start, end)
    series = Series.objects.filter(metric__in=REQUEST_METRICS).single()
    series = series if actor.sees_all else series.filter(_own_traffic(actor))
    series = series.filter(model_id=model.pk) if model else series
    aggregates = queries.sums(series, start, end, level, "model_id")
    machines = queries.sums(Series.objects.filter(metric__in=SYSTEM_METRICS).totals(), start, end, level)
    names = dict(Model.objects.filter(pk__in={key[0] for key in aggregates}).values_list("pk", "name"))
    names |= {model.pk: model.name} if model else {}
    return {
        "time_range": time_range,
        "models": [
            {"model_id": pk, "model_name": name, **_performance(aggregates, pk, TIME_RANGES[time_range])}
            for pk, name in sorted(names.items(), key=lambda pair: pair[1])
        ],
        "system": {
            f"avg_{name}": _rounded(machines.get((name,), MetricAggregate(name)).mean) for name in SYSTEM_METRICS
        },
    }


def _performance(aggregates: dict[tuple, MetricAggregate], model_id: str, duration: timedelta) -> dict:
    of_model = {name: aggregates.get((model_id, name), MetricAggregate(name)) for name in REQUEST_METRICS}
    total, failed = int(of_model["requests"].sum), int(of_model["failed_requests"].sum)
    response, first_token = of_model["response_time"], of_model["time_to_first_token"]
    return {
        "total_requests": total,
        "successful_requests": total - failed,
        "failed_requests": failed,
        "avg_response_time": _rounded(response.mean),
        "max_response_time": _rounded(response.high),
        "min_response_time": _rounded(response.low),
        **_percentiles("response_time", response),
        "avg_time_to_first_token": _rounded(first_token.mean),
        **_percentiles("time_to_first_token", first_token),
        "avg_queue_time": _rounded(of_model["queue_time"].mean),
        "prompt_tokens": int(of_model["prompt_tokens"].sum),
        "completion_tokens": int(of_model["completion_tokens"].sum),
        "requests_per_second": round(total / duration.total_seconds(), 4),
        "error_rate": round(failed / total, 4) if total else 0.0,
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
