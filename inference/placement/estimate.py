"""What a start of a model would take and whether it would find room: told before anybody starts it. Memory in MiB."""

from accounts.actor import Actor
from core.errors import PlatformError
from engines.base import MIB
from inference.placement import capacity, cluster_view, reason_messages, resource_options
from inference.placement.choice import place, survey
from inference.placement.fit import possible
from inference.placement.types import Candidate, Decision, Holder, Way
from models_app.models import Model


def estimate(model: Model, actor: Actor) -> dict:
    """Raises InvalidRequest where the files say nothing yet, EngineUnavailable for an engine that is not here."""
    request = resource_options.request_for(model)
    seen = cluster_view.take(model)
    decision, words = place(request, seen), survey(request, seen)
    return {
        "model_id": model.pk,
        "model_name": model.name,
        "outcome": _outcome(decision),
        "message": reason_messages.summary(decision),
        "profile": decision.way.profile if decision.way else None,
        "would_evict": [_victim(victim, actor) for victim in decision.victims if not victim.going],
        "ways": [_way(way, [word for word in words if _is_of(word, way)], actor) for way in request.ways],
    }


def warnings(model: Model) -> list[str]:
    """What will keep a model from starting. Raises InvalidRequest for wishes that no machine here could ever fulfil."""
    devices = cluster_view.devices_for(model.framework)
    found = capacity.check(model, devices)
    try:
        request = resource_options.request_for(model)
    except PlatformError:
        return found  # files or engine are not there yet, which is said elsewhere
    if devices and not found and not any(possible(way, devices) for way in request.ways):
        found.append(reason_messages.too_big(min(way.share for way in request.ways)))
    return found


def _outcome(decision: Decision) -> str:
    if not decision.placed:
        return "waits" if decision.waits else "refused"
    return "evicts" if any(not victim.going for victim in decision.victims) else "fits"


def _is_of(word: Candidate, way: Way) -> bool:
    return word.profile == way.profile and word.device.startswith(f"{way.kind}:")


def _way(way: Way, words: list[Candidate], actor: Actor) -> dict:
    return {
        "profile": way.profile or None,
        "device": way.kind,
        "count": way.count,
        "source": way.source,
        "weights": mib(way.estimate.weights),
        "overhead": mib(way.estimate.overhead),
        "kv_cache": mib(way.estimate.kv_cache),
        "total": mib(way.share) * way.count,
        "per_device": mib(way.share),
        "main_memory": mib(way.main_memory),
        "devices": [reason_messages.candidate(word, actor) for word in words],
    }


def _victim(victim: Holder, actor: Actor) -> dict:
    shown = reason_messages.may_name(victim.tenant_id, actor)
    return {
        "model_id": victim.model_id if shown else None,
        "model_name": victim.model_name if shown else None,
        "priority": victim.priority,
        "idle_time_sec": int(victim.idle or 0),
    }


def mib(size: int) -> int:
    """Rounded up: what is claimed is never shown as less."""
    return -(-size // MIB)
