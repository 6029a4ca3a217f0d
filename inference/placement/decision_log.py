"""Stores placement decisions: they explain starts and refusals, and those that wait are the queue for room."""

from dataclasses import asdict
from datetime import timedelta
from typing import Any

from django.utils import timezone

from inference.models import WAITING_TIMEOUT, DecisionOutcome, Instance, PlacementRecord
from inference.placement.types import Occupant, PlacementDecision, ResourceOption
from models_app.models import Model

MAX_PER_MODEL = 50  # of each model
REFUSED_TIMEOUT = timedelta(minutes=1)  # missing replicas are retried more often than that


def save_decision(
    model: Model, decision: PlacementDecision, outcome: DecisionOutcome, instance: Instance | None = None
) -> None:
    """Store a decision. Repeated refusals of the same start update the first record, which keeps its creation time."""
    latest = PlacementRecord.objects.filter(model=model).first()
    if latest and latest.decision["outcome"] == outcome and _is_repeated(latest):
        latest.save(update_fields=["updated_at"])
        return
    content = as_json(decision) | {"outcome": outcome}
    PlacementRecord.objects.create(tenant_id=model.tenant_id, model=model, instance=instance, decision=content)
    old = PlacementRecord.objects.filter(model=model).values_list("pk", flat=True)[MAX_PER_MODEL:]
    PlacementRecord.objects.filter(pk__in=list(old)).delete()


def as_json(decision: PlacementDecision) -> dict[str, Any]:
    return {
        "way": _option_json(decision.option) if decision.option else None,
        "node": decision.devices[0].node_name if decision.devices else None,
        "devices": [device.label for device in decision.devices],
        "claims": {str(device): size for device, size in decision.claims.items()},
        "evicted": [_victim_json(victim) for victim in decision.victims],
        "candidates": [asdict(candidate) for candidate in decision.trace],
        "holders": [asdict(verdict) for verdict in decision.verdicts],
        "wanted": sorted(decision.wanted),
    }


def _is_repeated(record: PlacementRecord) -> bool:
    """Whether a decision now repeats this one: it is recent enough to be the same start."""
    timeouts = {DecisionOutcome.WAITING: WAITING_TIMEOUT, DecisionOutcome.REFUSED: REFUSED_TIMEOUT}
    within = timeouts.get(record.decision["outcome"])
    return within is not None and record.updated_at > timezone.now() - within


def _option_json(option: ResourceOption) -> dict[str, Any]:
    return {**asdict(option), "total": option.estimate.total}


def _victim_json(victim: Occupant) -> dict[str, Any]:
    return {
        "instance_id": victim.instance_id,
        "model_id": victim.model_id,
        "model_name": victim.model_name,
        "tenant_id": victim.tenant_id,
        "priority": victim.priority,
        "idle": victim.idle,
        "going": victim.stopping,
    }
