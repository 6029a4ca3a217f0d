"""Models as the manager API (`/api/models/…/info`) shows them."""

from accounts.actor import Actor
from inference.crashes import advice
from inference.instances import gateway_reports, status_words
from inference.instances.gateway_reports import GatewayReports
from inference.models import Instance, InstanceState
from inference.serving.runtime import foremost_instances, ready_counts
from models_app.models import Model


def describe(models: list[Model], actor: Actor) -> list[dict]:
    """All fields of each model. Only operators see pids and command lines."""
    foremost, ready, traffic_now = foremost_instances(models), ready_counts(models), gateway_reports.read_reports()
    failures, pending = _failures(models), traffic_now.pending()
    return [
        _instance_fields(model, foremost.get(model.pk), traffic_now, actor)
        | {
            "failure_reason": failures.get(model.pk) if ready.get(model.pk, 0) < model.replicas else None,
            "pending_requests": pending[model.pk],
            "replicas": {"wanted": model.replicas, "ready": ready.get(model.pk, 0)},
        }
        for model in models
    ]


def overview(models: list[Model], actor: Actor) -> dict:
    """All models by name. If several tenants use one name, the actor's own model has it; the others go by id."""
    described = describe(models, actor)
    named = {}
    for model, fields in sorted(zip(models, described, strict=True), key=lambda pair: pair[0].tenant != actor.tenant):
        named[model.pk if model.name in named else model.name] = fields
    return {
        "models": named,
        "total_models": len(described),
        "running_models": sum(fields["status"] == "routing" for fields in described),
        "total_pending_requests": sum(fields["pending_requests"] for fields in described),
    }


def _instance_fields(model: Model, instance: Instance | None, traffic_now: GatewayReports, actor: Actor) -> dict:
    """`instance` is the model's foremost one."""
    ready = instance if instance and instance.state == InstanceState.READY else None
    process = instance if instance and instance.pid is not None and actor.is_operator else None
    return {
        "model_name": model.name,
        "aliases": [alias.name for alias in model.aliases.all()],
        "status": status_words.labels_for(instance).manager,
        "pid": process.pid if process else None,
        "idle_time_sec": int(traffic_now.idle_seconds(model.pk) or 0) if ready else 0,
        "mode": model.mode,
        "is_available": ready is not None and ready.healthy,
        "current_bat_path": _command_line(process) if process else None,
        "config_source": (instance.profile or _devices(instance)) if instance else None,
    }


def _failures(models: list[Model]) -> dict[str, str]:
    """Model id → why its newest failed instance failed."""
    rows = Instance.objects.filter(model__in=models).exclude(failure_reason="").order_by("model_id", "-created_at")
    return {row.model_id: advice.failure_message(row) for row in rows.distinct("model_id")}


def _command_line(instance: Instance) -> str | None:
    return " ".join(instance.launch["argv"]) if instance.launch else None


def _devices(instance: Instance) -> str | None:
    """The devices that the model runs on, as `cuda:0,1` or `cpu:0`."""
    kind, indexes = instance.placement.get("device_kind"), instance.placement.get("device_indexes", [])
    return f"{kind}:{','.join(map(str, indexes))}" if kind else None
