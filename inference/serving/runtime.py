"""What the catalogue needs of running models: status, figures of the last hour, and their stop before deletion."""

import time
from datetime import timedelta

from django.db.models import Avg, Count, OuterRef, QuerySet, Subquery, Sum
from django.utils import timezone
from django.utils.translation import gettext as _

from accounts.actor import Actor
from core.errors import Conflict, PlatformError
from core.units import MIB
from inference.instances import adapters, status_words
from inference.logs import services as logs
from inference.models import Instance, InstanceState, Reservation, UsageRecord
from inference.placement import estimate
from inference.serving import services
from inference.usage import FAILED
from models_app.models import Model

END_TIMEOUT = 20.0
HOUR = 3600
STATES = {
    "starting": [InstanceState.PENDING, InstanceState.STARTING],
    "running": [InstanceState.READY],
    "stopping": [InstanceState.DRAINING],
    "stopped": [InstanceState.STOPPED],
    "error": [InstanceState.FAILED],
}
NO_REQUESTS = {"avg_response_time": 0.0, "requests_per_second": 0.0, "error_rate": 0.0}


def foremost_instances(models: list[Model]) -> dict[str, Instance]:
    """Model id → the instance whose state is the model's, in one query."""
    rows = Instance.objects.filter(model__in=models).foremost().distinct("model_id")
    return {row.model_id: row for row in rows}


def ready_counts(models: list[Model]) -> dict[str, int]:
    """Model id → number of ready replicas, for models that have any."""
    ready = Instance.objects.serving().filter(model__in=models).order_by()
    return dict(ready.values_list("model_id").annotate(Count("pk")))


class InferenceRuntime:
    def statuses(self, models: list[Model]) -> dict[str, dict]:
        foremost, ready, reserved = foremost_instances(models), ready_counts(models), _reserved_bytes(models)
        stats = last_hour_stats([model.pk for model in models])
        return {
            model.pk: _status_fields(foremost.get(model.pk))
            | {
                "replicas": {"wanted": model.replicas, "ready": ready.get(model.pk, 0)},
                "resource_usage": _resource_usage(reserved.get(model.pk, {})),
                "performance_stats": stats.get(model.pk, NO_REQUESTS),
            }
            for model in models
        }

    def with_status(self, queryset: QuerySet, label: str) -> QuerySet:
        foremost = Instance.objects.filter(model=OuterRef("pk")).foremost().values("state")[:1]
        queryset = queryset.annotate(foremost_state=Subquery(foremost))
        if label == "created":
            return queryset.filter(foremost_state=None)
        return queryset.filter(foremost_state__in=STATES[label])

    def is_active(self, model: Model) -> bool:
        return model.instances.active().exists()

    def scale(self, model: Model) -> list[str]:
        return services.scale(model)

    def estimate(self, model: Model, actor: Actor) -> dict | None:
        try:
            return estimate.estimate(model, actor)
        except PlatformError:
            return None

    def start_warnings(self, model: Model) -> list[str]:
        return estimate.warnings(model)

    def end(self, model: Model) -> None:
        if self.is_active(model):
            services.stop(model, force=True, timeout=0)
        deadline = time.monotonic() + END_TIMEOUT
        while self.is_active(model):
            if time.monotonic() > deadline:
                raise Conflict(_("The model is still stopping. Try again shortly."), retry_after=10)
            time.sleep(0.2)

    def require_adapters(self, model: Model, rank: int) -> None:
        adapters.require_support(model, rank)

    def adapters_loaded(self, version_ids: list[str]) -> dict[str, list[dict]]:
        return adapters.loaded(version_ids)

    def adapters_in_use(self, version_ids: list[str]) -> bool:
        return adapters.in_use(version_ids)

    def forget(self, model_id: str) -> None:
        logs.forget(model_id)


def _status_fields(instance: Instance | None) -> dict:
    labels = status_words.labels_for(instance)
    return {"status": labels.status, "health": labels.health}


def _reserved_bytes(models: list[Model]) -> dict[str, dict[str, int]]:
    """Model id → kind of device → bytes reserved by all of its replicas."""
    of_instance = Instance.objects.filter(pk=OuterRef("owner"), model__in=models)
    claims = Reservation.objects.annotate(model_id=Subquery(of_instance.values("model_id"))).exclude(model_id=None)
    reserved: dict[str, dict[str, int]] = {}
    for model_id, kind, size in claims.values_list("model_id", "device__kind").annotate(Sum("bytes")):
        reserved.setdefault(model_id, {})[kind] = size
    return reserved


def _resource_usage(reserved: dict[str, int]) -> dict:
    """In MiB. The use of CPU cores is not measured yet."""
    return {
        "gpu_memory": reserved.get("cuda", 0) // MIB,
        "cpu_cores": None if reserved else 0,
        "memory": reserved.get("cpu", 0) // MIB,
    }


def last_hour_stats(model_ids: list[str]) -> dict[str, dict]:
    """Model id → statistics of its requests, for models that had any."""
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
