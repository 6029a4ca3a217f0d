"""The kept decisions about a model, readable: why it runs where it runs, or why it does not."""

from accounts.actor import Actor
from inference.crashes import advice
from inference.instances import status_words
from inference.models import PlacementRecord
from inference.placement import reason_messages
from inference.placement.estimate import mib
from inference.placement.types import Candidate
from inference.serving.runtime import foremost_instances
from models_app.models import Model


def explain(model: Model, actor: Actor) -> dict:
    """Decisions, the newest first. Another tenant's public model shows none; nodes are the operators'."""
    foremost = foremost_instances([model]).get(model.pk)
    records = PlacementRecord.objects.visible_to(actor).filter(model=model)
    return {
        "model_id": model.pk,
        "model_name": model.name,
        "status": status_words.word(foremost).status,
        "stop_reason": foremost.get_stop_reason_display() or None if foremost else None,
        "failure_reason": advice.told(foremost) or None if foremost else None,
        "decisions": [_one(record, actor) for record in records],
    }


def _one(record: PlacementRecord, actor: Actor) -> dict:
    found = record.decision
    trace = [Candidate(**each) for each in found["candidates"]]
    return {
        "created_at": record.created_at,
        "last_asked_at": record.updated_at,
        "outcome": found["outcome"],
        "message": reason_messages.kept_summary(found, trace),
        "instance_id": record.instance_id,
        "profile": found["way"]["profile"] or None if found["way"] else None,
        "source": found["way"]["source"] if found["way"] else None,
        "total": mib(sum(found["claims"].values())) if found["way"] else None,
        "node": found["node"] if actor.is_operator else None,
        "devices": found["devices"],
        "candidates": [reason_messages.candidate(each, actor) for each in trace],
        "holders": [_holder(each, actor) for each in found["holders"]],
    }


def _holder(verdict: dict, actor: Actor) -> dict:
    shown = reason_messages.may_name(verdict["tenant_id"], actor)
    return {
        "model_id": verdict["model_id"] if shown else None,
        "model_name": verdict["model_name"] if shown else None,
        "evicted": verdict["evicted"],
        "why": reason_messages.reason(verdict["why"]) or None,
    }
