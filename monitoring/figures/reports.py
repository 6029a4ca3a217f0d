"""The figures as the service document tells them: curves with a summary, and how each model performed."""

from datetime import datetime, timedelta

from django.db.models import Q, QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _

from accounts.actor import Actor
from core.errors import InvalidRequest
from models_app.models import Model
from monitoring.figures import queries
from monitoring.figures.catalogue import METRICS, Kind, Subject
from monitoring.figures.levels import BY_NAME
from monitoring.figures.queries import Figures
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
LAST = timedelta(hours=1)
TIME_RANGES = {
    "1h": timedelta(hours=1),
    "24h": timedelta(days=1),
    "7d": timedelta(days=7),
    "30d": timedelta(days=30),
}
PERCENTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
SYSTEM = ["cpu_percent", "memory_percent", "gpu_utilization"]
REQUESTS = [name for name, metric in METRICS.items() if metric.subject is Subject.REQUESTS]


def metrics(
    actor: Actor,
    *,
    start_time: datetime | None = None,
    end_time: datetime | None = None,
    metric_type: str | None = None,
    interval: str | None = None,
) -> dict:
    """One point for each bucket in which anything was measured. Means are over all devices, `max_…` is of one."""
    end = end_time or (start_time + LAST if start_time else timezone.now())
    start = start_time or end - LAST
    level = queries.level_for(start, end, BY_NAME.get(interval))
    if queries.points(start, end, level) > queries.MOST_POINTS:
        many = {"most": queries.MOST_POINTS, "name": level.name}
        raise InvalidRequest(
            _("At most %(most)d points: choose a longer interval than %(name)s.") % many, param="interval"
        )
    names = METRIC_TYPES[metric_type] if metric_type else [name for some in METRIC_TYPES.values() for name in some]
    series = _series(actor, names)
    curves = queries.curves(series, start, end, level)
    return {
        "interval": level.name,
        "metrics": [{"timestamp": bucket, **_point(names, found)} for bucket, found in curves.items()],
        "summary": _summary(names, queries.sums(series, start, end, level)),
    }


def _series(actor: Actor, names: list[str]) -> QuerySet:
    """Machines all together, for everybody; models all together for operators, else the tenant's own."""
    wanted = Series.objects.filter(metric__in=names)
    if actor.sees_all:
        return wanted.totals()
    of_machines = [name for name in names if METRICS[name].subject in (Subject.HOST, Subject.GPU)]
    return wanted.filter(Q(metric__in=of_machines, node_id="", model_id="") | _asked(actor))


def _asked(actor: Actor) -> Q:
    """Everything of the models that are the actor's own, and what it has asked of others'."""
    usable = Model.objects.usable_by(actor)
    own = Q(model_id__in=usable.filter(tenant=actor.tenant).values("pk"))
    return own | Q(model_id__in=usable.values("pk"), tenant_id=actor.tenant.pk)


def _point(names: list[str], found: dict[str, Figures]) -> dict:
    return {name: _rounded(found[name].value) if name in found else None for name in names}


def _summary(names: list[str], found: dict[tuple, Figures]) -> dict:
    summary = {}
    for name in names:
        figures = found.get((name,), Figures(name))
        if METRICS[name].kind is Kind.COUNTER:
            summary[f"total_{name}"] = _rounded(figures.sum)
        else:
            summary |= {f"avg_{name}": _rounded(figures.mean), f"max_{name}": _rounded(figures.high)}
        if METRICS[name].kind is Kind.HISTOGRAM:
            summary |= _percentiles(name, figures)
    return summary


def _percentiles(name: str, figures: Figures) -> dict:
    return {f"{word}_{name}": _rounded(figures.percentile(share)) for word, share in PERCENTILES.items()}


def performance(actor: Actor, *, model: Model | None = None, time_range: str = "24h") -> dict:
    """Per model that was asked in this time, or for the one that was named; the machines beside them."""
    end = timezone.now()
    start = end - TIME_RANGES[time_range]
    level = queries.level_for(start, end)
    series = Series.objects.filter(metric__in=REQUESTS).single()
    series = series if actor.sees_all else series.filter(_asked(actor))
    series = series.filter(model_id=model.pk) if model else series
    figures = queries.sums(series, start, end, level, "model_id")
    machines = queries.sums(Series.objects.filter(metric__in=SYSTEM).totals(), start, end, level)
    names = dict(Model.objects.filter(pk__in={key[0] for key in figures}).values_list("pk", "name"))
    names |= {model.pk: model.name} if model else {}
    return {
        "time_range": time_range,
        "models": [
            {"model_id": pk, "model_name": name, **_performance(figures, pk, TIME_RANGES[time_range])}
            for pk, name in sorted(names.items(), key=lambda pair: pair[1])
        ],
        "system": {f"avg_{name}": _rounded(machines.get((name,), Figures(name)).mean) for name in SYSTEM},
    }


def _performance(figures: dict[tuple, Figures], model_id: str, over: timedelta) -> dict:
    found = {name: figures.get((model_id, name), Figures(name)) for name in REQUESTS}
    total, failed = int(found["requests"].sum), int(found["failed_requests"].sum)
    times, first = found["response_time"], found["time_to_first_token"]
    return {
        "total_requests": total,
        "successful_requests": total - failed,
        "failed_requests": failed,
        "avg_response_time": _rounded(times.mean),
        "max_response_time": _rounded(times.high),
        "min_response_time": _rounded(times.low),
        **_percentiles("response_time", times),
        "avg_time_to_first_token": _rounded(first.mean),
        **_percentiles("time_to_first_token", first),
        "avg_queue_time": _rounded(found["queue_time"].mean),
        "prompt_tokens": int(found["prompt_tokens"].sum),
        "completion_tokens": int(found["completion_tokens"].sum),
        "requests_per_second": round(total / over.total_seconds(), 4),
        "error_rate": round(failed / total, 4) if total else 0.0,
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
