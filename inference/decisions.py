"""Decisions of the placement as they are kept: who wants to know why finds it, and who came first is served first."""

from dataclasses import asdict
from datetime import timedelta

from django.utils import timezone

from inference.models import Instance, PlacementRecord
from inference.placement.shapes import Decision, Holder, Way
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
    waiting = PlacementRecord.objects.filter(
        decision__outcome=WAITING, updated_at__gt=timezone.now() - STILL_WAITING
    ).order_by("created_at", "pk")
    found = set()
    for record in waiting:
        if record.model_id == model.pk:
            break
        found.update(record.decision["wanted"])
    return frozenset(found)


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
