"""The stored placement decisions of a model in readable form: why it runs where it runs, or why it does not run."""

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
    """Decisions, newest first. For a public model of another tenant there are none; only operators see nodes."""
    foremost = foremost_instances([model]).get(model.pk)
    records = PlacementRecord.objects.visible_to(actor).filter(model=model)
    return {
        "model_id": model.pk,
        "model_name": model.name,
        "status": status_words.labels_for(foremost).status,
        "stop_reason": foremost.get_stop_reason_display() or None if foremost else None,
        "failure_reason": advice.failure_message(foremost) or None if foremost else None,
        "decisions": [_render_decision(record, actor) for record in records],
    }


def _render_decision(record: PlacementRecord, actor: Actor) -> dict:
    decision = record.decision
    trace = [Candidate(**candidate) for candidate in decision["candidates"]]
    return {
        "created_at": record.created_at,
        "last_asked_at": record.updated_at,
        "outcome": decision["outcome"],
        "message": reason_messages.record_message(decision, trace),
        "instance_id": record.instance_id,
        "profile": decision["way"]["profile"] or None if decision["way"] else None,
        "source": decision["way"]["source"] if decision["way"] else None,
        "total": mib(sum(decision["claims"].values())) if decision["way"] else None,
        "node": decision["node"] if actor.is_operator else None,
        "devices": decision["devices"],
        "candidates": [reason_messages.candidate_json(candidate, actor) for candidate in trace],
        "holders": [_render_verdict(verdict, actor) for verdict in decision["holders"]],
    }


def _render_verdict(verdict: dict, actor: Actor) -> dict:
    may_name = reason_messages.may_name(verdict["tenant_id"], actor)
    return {
        "model_id": verdict["model_id"] if may_name else None,
        "model_name": verdict["model_name"] if may_name else None,
        "evicted": verdict["evicted"],
        "why": reason_messages.reason_message(verdict["why"]) or None,
    }
