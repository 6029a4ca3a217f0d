"""Decisions of the placement as they are kept: who wants to know why finds it, and who came first is served first."""

from collections.abc import Iterable
from dataclasses import asdict
from datetime import datetime, timedelta
from itertools import takewhile

from django.db.models import QuerySet
from django.utils import timezone

from inference.models import Instance, PlacementRecord
from inference.placement.types import Decision, Holder, Way
from models_app.models import Model

KEPT = 50  # of each model
STILL_WAITING = timedelta(seconds=5)  # one that waits asks again more often
STILL_REFUSED = timedelta(minutes=1)  # replicas that are missing are tried again about so often
PLACED, REFUSED, WAITING = "placed", "refused", "waiting"


def keep(model: Model, decision: Decision, outcome: str, instance: Instance | None = None) -> None:
    """Write one down. Of those who ask in vain again and again only the first is kept, with its time."""
    latest = PlacementRecord.objects.filter(model=model).first()
    if latest and latest.decision["outcome"] == outcome and _is_repeated(latest):
        latest.save(update_fields=["updated_at"])
        return
    content = as_json(decision) | {"outcome": outcome}
    PlacementRecord.objects.create(tenant_id=model.tenant_id, model=model, instance=instance, decision=content)
    old = PlacementRecord.objects.filter(model=model).values_list("pk", flat=True)[KEPT:]
    PlacementRecord.objects.filter(pk__in=list(old)).delete()


def as_json(decision: Decision) -> dict:
    return {
        "way": _way(decision.way) if decision.way else None,
        "node": decision.devices[0].node_name if decision.devices else None,
        "devices": [device.label for device in decision.devices],
        "claims": {str(device): size for device, size in decision.claims.items()},
        "evicted": [_holder(victim) for victim in decision.victims],
        "candidates": [asdict(candidate) for candidate in decision.trace],
        "holders": [asdict(verdict) for verdict in decision.holders],
        "wanted": sorted(decision.wanted),
    }


def devices_of_earlier_comers(model: Model) -> frozenset[int]:
    """Ids of devices for which others have waited longer: nobody is evicted there past them."""
    return _wanted(takewhile(lambda record: record.model_id != model.pk, _waiting()))


def devices_awaited_since(moment: datetime) -> frozenset[int]:
    """Ids of devices that models have been waiting for since then, or longer."""
    return _wanted(_waiting().filter(created_at__lte=moment))


def _waiting() -> QuerySet:
    """Who waits now, the first comer first."""
    lately = timezone.now() - STILL_WAITING
    return PlacementRecord.objects.filter(decision__outcome=WAITING, updated_at__gt=lately).order_by("created_at", "pk")


def _wanted(records: Iterable[PlacementRecord]) -> frozenset[int]:
    return frozenset(device for record in records for device in record.decision["wanted"])


def _is_repeated(record: PlacementRecord) -> bool:
    """Asked again so soon that it is one wish."""
    within = {WAITING: STILL_WAITING, REFUSED: STILL_REFUSED}.get(record.decision["outcome"])
    return within is not None and record.updated_at > timezone.now() - within


def _way(way: Way) -> dict:
    return {**asdict(way), "total": way.estimate.total}


def _holder(holder: Holder) -> dict:
    return {
        "instance_id": holder.instance_id,
        "model_id": holder.model_id,
        "model_name": holder.model_name,
        "tenant_id": holder.tenant_id,
        "priority": holder.priority,
        "idle": holder.idle,
        "going": holder.going,
    }
