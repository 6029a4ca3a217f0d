"""The running side of the catalogue's models: their status, figures of the last hour, and their end before deletion."""

import time
from datetime import timedelta

from django.db.models import Avg, Count, OuterRef, QuerySet, Subquery
from django.utils import timezone
from django.utils.translation import gettext as _

from core.errors import Conflict
from inference import services, status
from inference.models import Instance, State, UsageRecord
from inference.usage import FAILED
from models_app.models import Model

MIB = 1024 * 1024
END_WAIT = 20.0
HOUR = 3600
STATES = {
    "starting": [State.PENDING, State.STARTING],
    "running": [State.READY],
    "stopping": [State.DRAINING],
    "stopped": [State.STOPPED],
    "error": [State.FAILED],
}
NO_REQUESTS = {"avg_response_time": 0.0, "requests_per_second": 0.0, "error_rate": 0.0}


def newest_instances(models: list[Model]) -> dict[str, Instance]:
    """Model id → its newest instance, in one query."""
    rows = Instance.objects.filter(model__in=[model.pk for model in models]).order_by("model_id", "-created_at")
    return {row.model_id: row for row in rows.distinct("model_id").prefetch_related("reservations__device")}


class Lifecycle:
    def statuses(self, models: list[Model]) -> dict[str, dict]:
        newest = newest_instances(models)
        figures = last_hour([model.pk for model in models])
        return {model.pk: _running(newest.get(model.pk), figures.get(model.pk, NO_REQUESTS)) for model in models}

    def with_status(self, queryset: QuerySet, word: str) -> QuerySet:
        newest = Instance.objects.filter(model=OuterRef("pk")).order_by("-created_at").values("state")[:1]
        queryset = queryset.annotate(newest_state=Subquery(newest))
        if word == "created":
            return queryset.filter(newest_state=None)
        return queryset.filter(newest_state__in=STATES[word])

    def is_active(self, model: Model) -> bool:
        return model.instances.active().exists()

    def end(self, model: Model) -> None:
        if self.is_active(model):
            services.stop(model, force=True, timeout=0)
        deadline = time.monotonic() + END_WAIT
        while self.is_active(model):
            if time.monotonic() > deadline:
                raise Conflict(_("The model is still stopping. Try again shortly."), retry_after=10)
            time.sleep(0.2)


def _running(instance: Instance | None, figures: dict) -> dict:
    word = status.word(instance)
    return {
        "status": word.status,
        "health": word.health,
        "resource_usage": _reserved(instance),
        "performance_stats": figures,
    }


def _reserved(instance: Instance | None) -> dict:
    """MiB reserved by the newest instance, by kind of device. Nobody measures its cores yet."""
    held = {"cuda": 0, "cpu": 0}
    for reservation in instance.reservations.all() if instance else ():
        held[reservation.device.kind] += reservation.bytes // MIB
    idle = not any(held.values())
    return {"gpu_memory": held["cuda"], "cpu_cores": 0 if idle else None, "memory": held["cpu"]}


def last_hour(model_ids: list[str]) -> dict[str, dict]:
    """Model id → figures of its requests, for those that had any."""
    since = timezone.now() - timedelta(seconds=HOUR)
    rows = UsageRecord.objects.filter(model_id__in=model_ids, started_at__gte=since, started_on__gte=since.date())
    grouped = rows.values("model_id").annotate(
        requests=Count("request_id"),
        errors=Count("request_id", filter=FAILED),
        duration=Avg("duration_ms"),
    )
    return {
        row["model_id"]: {
            "avg_response_time": round(row["duration"] / 1000, 3),
            "requests_per_second": round(row["requests"] / HOUR, 4),
            "error_rate": round(row["errors"] / row["requests"], 4),
        }
        for row in grouped
    }
