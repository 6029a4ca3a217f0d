"""A model as the manager document shows it."""

from accounts.actor import Actor
from inference.crashes import advice
from inference.instances import gateway_reports, status_words
from inference.instances.gateway_reports import Traffic
from inference.models import Instance, State
from inference.serving.runtime import foremost_instances, ready_counts
from models_app.models import Model


def describe(models: list[Model], actor: Actor) -> list[dict]:
    """All of the document's fields. Pids and launch records are the operators'."""
    foremost, ready, live = foremost_instances(models), ready_counts(models), gateway_reports.read()
    failures, pending = _failures(models), live.pending()
    return [
        _one(model, foremost.get(model.pk), live, actor)
        | {
            "failure_reason": failures.get(model.pk) if ready.get(model.pk, 0) < model.replicas else None,
            "pending_requests": pending[model.pk],
            "replicas": {"wanted": model.replicas, "ready": ready.get(model.pk, 0)},
        }
        for model in models
    ]


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


def _one(model: Model, instance: Instance | None, live: Traffic, actor: Actor) -> dict:
    """By the instance that speaks for it."""
    ready = instance is not None and instance.state == State.READY
    shown = instance is not None and instance.pid is not None and actor.is_operator
    return {
        "model_name": model.name,
        "aliases": [alias.name for alias in model.aliases.all()],
        "status": status_words.word(instance).manager,
        "pid": instance.pid if shown else None,
        "idle_time_sec": int(live.idle(model.pk) or 0) if ready else 0,
        "mode": model.mode,
        "is_available": ready and instance.healthy,
        "current_bat_path": _command_line(instance) if shown else None,
        "config_source": (instance.profile or _devices(instance)) if instance else None,
    }


def _failures(models: list[Model]) -> dict[str, str]:
    """Model id → why the last of its instances that came to grief did."""
    rows = Instance.objects.filter(model__in=models).exclude(failure_reason="").order_by("model_id", "-created_at")
    return {row.model_id: advice.told(row) for row in rows.distinct("model_id")}


def _command_line(instance: Instance) -> str | None:
    return " ".join(instance.launch["argv"]) if instance.launch else None


def _devices(instance: Instance) -> str | None:
    """The device configuration that the model runs on, as `cuda:0,1` or `cpu:0`."""
    kind, indexes = instance.placement.get("device_kind"), instance.placement.get("device_indexes", [])
    return f"{kind}:{','.join(map(str, indexes))}" if kind else None
