"""A model as the manager document shows it."""

from collections import Counter

from django.db.models.functions import Now
from django.utils import timezone

from accounts.actor import Actor
from inference import status
from inference.agent.traffic import GATEWAY_SILENCE
from inference.lifecycle import newest_instances
from inference.models import GatewayHeartbeat, Instance, State
from models_app.models import Model


def describe(models: list[Model], actor: Actor) -> list[dict]:
    """All of the document's fields. Pids and launch records are the operators'."""
    newest = newest_instances(models)
    pending = _pending_requests()
    return [_one(model, newest.get(model.pk), pending, actor) for model in models]


def _one(model: Model, instance: Instance | None, pending: Counter, actor: Actor) -> dict:
    ready = instance is not None and instance.state == State.READY
    active = instance is not None and instance.pid is not None
    return {
        "model_name": model.name,
        "aliases": [alias.name for alias in model.aliases.all()],
        "status": status.word(instance).manager,
        "pid": instance.pid if active and actor.is_operator else None,
        "idle_time_sec": _idle(instance) if ready else 0,
        "mode": model.mode,
        "is_available": ready and instance.healthy,
        "current_bat_path": _command_line(instance) if active and actor.is_operator else None,
        "config_source": _device(instance) if instance else None,
        "failure_reason": (instance.failure_reason or None) if instance else None,
        "pending_requests": pending[instance.pk if instance else None] + pending[model.pk],
    }


def _idle(instance: Instance) -> int:
    since = instance.last_used_at or instance.ready_at
    return max(0, int((timezone.now() - since).total_seconds()))


def _command_line(instance: Instance) -> str | None:
    return " ".join(instance.launch["argv"]) if instance.launch else None


def _device(instance: Instance) -> str | None:
    kind, indexes = instance.placement.get("device_kind"), instance.placement.get("device_indexes", [])
    return f"{kind}:{','.join(map(str, indexes))}" if kind else None


def _pending_requests() -> Counter:
    """Requests in flight by instance id and waiting by model id, over all live gateways."""
    counts = Counter()
    for beat in GatewayHeartbeat.objects.filter(beat_at__gt=Now() - GATEWAY_SILENCE):
        counts.update(beat.inflight)
        counts.update(beat.waiting)
    return counts
