"""A model as the manager document shows it."""

from collections import Counter

from django.utils import timezone

from accounts.actor import Actor
from inference import status
from inference.agent import traffic
from inference.agent.traffic import Traffic
from inference.lifecycle import newest_instances
from inference.models import Instance, State
from models_app.models import Model


def describe(models: list[Model], actor: Actor) -> list[dict]:
    """All of the document's fields. Pids and launch records are the operators'."""
    newest, live = newest_instances(models), traffic.read()
    pending = _pending_requests(live)
    return [_one(model, newest.get(model.pk), live, pending, actor) for model in models]


def overview(models: list[Model], actor: Actor) -> dict:
    """All of them by name. Of equal names of several tenants the actor's own keeps it; the others go by id."""
    described = describe(models, actor)
    named = {}
    for model, each in sorted(zip(models, described, strict=True), key=lambda pair: pair[0].tenant != actor.tenant):
        named[model.pk if model.name in named else model.name] = each
    return {
        "models": named,
        "total_models": len(described),
        "running_models": sum(each["status"] == "routing" for each in described),
        "total_pending_requests": sum(each["pending_requests"] for each in described),
    }


def _one(model: Model, instance: Instance | None, live: Traffic, pending: Counter, actor: Actor) -> dict:
    ready = instance is not None and instance.state == State.READY
    shown = instance is not None and instance.pid is not None and actor.is_operator
    return {
        "model_name": model.name,
        "aliases": [alias.name for alias in model.aliases.all()],
        "status": status.word(instance).manager,
        "pid": instance.pid if shown else None,
        "idle_time_sec": _idle_seconds(instance, live) if ready else 0,
        "mode": model.mode,
        "is_available": ready and instance.healthy,
        "current_bat_path": _command_line(instance) if shown else None,
        "config_source": _devices(instance) if instance else None,
        "failure_reason": (instance.failure_reason or None) if instance else None,
        "pending_requests": (pending[instance.pk] if instance else 0) + pending[model.pk],
    }


def _idle_seconds(instance: Instance, live: Traffic) -> int:
    since = (timezone.now() - (instance.ready_at or instance.state_since)).total_seconds()
    return max(0, int(live.idle(instance, since) or 0))


def _command_line(instance: Instance) -> str | None:
    return " ".join(instance.launch["argv"]) if instance.launch else None


def _devices(instance: Instance) -> str | None:
    """The device configuration that the model runs on, as `cuda:0,1` or `cpu:0`."""
    kind, indexes = instance.placement.get("device_kind"), instance.placement.get("device_indexes", [])
    return f"{kind}:{','.join(map(str, indexes))}" if kind else None


def _pending_requests(live: Traffic) -> Counter:
    """Requests in flight by instance id and waiting by model id, over all live gateways."""
    counts = Counter()
    for beat in live.beats:
        counts.update(beat.inflight)
        counts.update(beat.waiting)
    return counts
