"""What a start of a model would need and whether there is room for it, before it is started. Memory in MiB."""

from typing import Any

from accounts.actor import Actor
from core.errors import PlatformError
from core.units import MIB
from inference.placement import capacity, cluster_view, reason_messages, resource_options
from inference.placement.choice import choose_placement, evaluate_options
from inference.placement.fit import could_ever_fit
from inference.placement.types import Candidate, Occupant, PlacementDecision, ResourceOption
from models_app.models import Model


def estimate(model: Model, actor: Actor) -> dict[str, Any]:
    """Raises InvalidRequest if the model files cannot be read yet, EngineUnavailable for an unknown engine."""
    request = resource_options.placement_request(model)
    cluster = cluster_view.view_for_model(model)
    decision, candidates = choose_placement(request, cluster), evaluate_options(request, cluster)
    return {
        "model_id": model.pk,
        "model_name": model.name,
        "outcome": _outcome(decision),
        "message": reason_messages.decision_message(decision),
        "profile": decision.option.profile if decision.option else None,
        "would_evict": [_render_victim(victim, actor) for victim in decision.victims if not victim.stopping],
        "ways": [
            _render_option(option, [candidate for candidate in candidates if _is_for(candidate, option)], actor)
            for option in request.options
        ],
    }


def warnings(model: Model) -> list[str]:
    """What will keep a model from starting. Raises InvalidRequest for requirements that no machine could ever meet."""
    devices = cluster_view.device_views(model.framework)
    messages = capacity.check_requirements(model, devices)
    try:
        request = resource_options.placement_request(model)
    except PlatformError:
        return messages  # other checks report missing files or engines
    if devices and not messages and not any(could_ever_fit(option, devices) for option in request.options):
        messages.append(reason_messages.too_big_message(min(option.share for option in request.options)))
    return messages


def _outcome(decision: PlacementDecision) -> str:
    if not decision.placed:
        return "waits" if decision.waits else "refused"
    return "evicts" if any(not victim.stopping for victim in decision.victims) else "fits"


def _is_for(candidate: Candidate, option: ResourceOption) -> bool:
    return candidate.profile == option.profile and candidate.device.startswith(f"{option.kind}:")


def _render_option(option: ResourceOption, candidates: list[Candidate], actor: Actor) -> dict[str, Any]:
    return {
        "profile": option.profile or None,
        "device": option.kind,
        "count": option.count,
        "source": option.source,
        "weights": mib(option.estimate.weights),
        "overhead": mib(option.estimate.overhead),
        "kv_cache": mib(option.estimate.kv_cache),
        "total": mib(option.share) * option.count,
        "per_device": mib(option.share),
        "main_memory": mib(option.main_memory),
        "devices": [reason_messages.candidate_json(candidate, actor) for candidate in candidates],
    }


def _render_victim(victim: Occupant, actor: Actor) -> dict[str, Any]:
    may_name = reason_messages.may_name(victim.tenant_id, actor)
    return {
        "model_id": victim.model_id if may_name else None,
        "model_name": victim.model_name if may_name else None,
        "priority": victim.priority,
        "idle_time_sec": int(victim.idle or 0),
    }


def mib(size: int) -> int:
    """Rounded up, so that a claim is never shown smaller than it is."""
    return -(-size // MIB)
