"""Messages for placement decisions. Tenants see neither the names of nodes nor models of other tenants."""

from typing import Any

from django.utils.text import format_lazy
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy as lazy

from accounts.actor import Actor
from core.errors import EngineUnavailable, InsufficientResources, NoRoomYet, PlatformError
from core.units import GIB, MIB
from inference.placement.types import Candidate, PlacementDecision, Reason

RETRY_SECONDS = 30
MAKE_ROOM = lazy(
    "Stop another model, let this one take less, or try again later: GET /api/models/{ref}/explain says who holds what."
)
OCCUPANCY_REASONS = {Reason.NO_ROOM, Reason.LIMIT, Reason.TOO_FEW, Reason.MAIN_MEMORY}
REASON_MESSAGES = {
    Reason.NODE_STALE: lazy("Its worker does not answer."),
    Reason.ENGINE: "{text}",
    Reason.SUSPECT: "{text}",
    Reason.OTHER_NODE: lazy("The profile names another machine."),
    Reason.CORES: lazy("It has not enough cores."),
    Reason.TOO_SMALL: lazy("{needed} GiB needed, more than the {capacity} GiB that ours may take"),
    Reason.NO_ROOM: lazy("{free} of {capacity} GiB free, {needed} GiB needed"),
    Reason.TOO_FEW: lazy("Its machine has not enough such devices with room."),
    Reason.MAIN_MEMORY: lazy("Its machine has not enough free main memory."),
    Reason.LIMIT: lazy("As many models run as may (max_concurrent_models)."),
    Reason.PINNED: lazy("pinned"),
    Reason.BUSY: lazy("requests are in flight"),
    Reason.HAS_WAITERS: lazy("requests wait for it"),
    Reason.STARTING: lazy("starting"),
    Reason.RECENTLY_STARTED: lazy("started a moment ago"),
    Reason.SAME_MODEL: lazy("the same model"),
    Reason.HIGHER_PRIORITY: lazy("of a higher priority"),
    Reason.RECENTLY_USED: lazy("used a moment ago"),
    Reason.REPLICATED: lazy("one of several replicas"),
    Reason.EARLIER_WAITER: lazy("its room goes to a model that has waited longer"),
}
NODE_REASONS = {Reason.NODE_STALE, Reason.ENGINE}
SIZE_REASONS = {Reason.NO_ROOM, Reason.TOO_SMALL}


def reason_message(why: str, needed: int = 0, free: int = 0, capacity: int = 0, text: str = "") -> str:
    """The message for one reason code; sizes in bytes."""
    if not why:
        return ""
    message = str(REASON_MESSAGES[Reason(why)])
    return message.format(needed=_gib_number(needed), free=_gib_number(free), capacity=_gib_number(capacity), text=text)


def candidate_line(candidate: Candidate) -> str:
    """For operators: profile, node, device and the result for it."""
    result = f"{candidate.node} {candidate.device}: {_candidate_message(candidate)}"
    return f"{candidate.profile}, {result}" if candidate.profile else result


def may_name(tenant_id: str, actor: Actor) -> bool:
    """Whether a model of that tenant may be named to this actor."""
    return actor.is_operator or (actor.tenant is not None and actor.tenant.pk == tenant_id)


def candidate_json(found: Candidate, actor: Actor) -> dict[str, Any]:
    """The result for one device as the API shows it; memory in MiB."""
    hidden = not actor.is_operator and found.why == Reason.SUSPECT  # `text` describes the machine
    return {
        "profile": found.profile or None,
        "node": found.node if actor.is_operator else None,
        "device": found.device,
        "fits": not found.why,
        "taken": found.taken,
        "why": _("The device is not in order.") if hidden else _candidate_message(found),
        "needed": -(-found.needed // MIB),
        "free": max(0, found.free) // MIB,
        "capacity": max(0, found.capacity) // MIB,
    }


def decision_message(decision: PlacementDecision) -> str:
    """The decision in one sentence."""
    evicted = sum(not victim.stopping for victim in decision.victims)
    return _outcome_message(decision.placed, decision.waits, evicted, str(_shortage_message(list(decision.trace))))


def record_message(record: dict[str, Any], trace: list[Candidate]) -> str:
    """The same for a stored decision."""
    evicted = sum(not victim["going"] for victim in record["evicted"])
    waits = record["outcome"] == "waiting"
    return _outcome_message(record["outcome"] == "placed", waits, evicted, str(_shortage_message(trace)))


def _outcome_message(placed: bool, waits: bool, evicted: int, why_not: str) -> str:
    if placed and evicted:
        return _("It has room when idle models give theirs back (%(count)d).") % {"count": evicted}
    if placed:
        return _("It has room.")
    if waits:
        return _("%(why)s There may be room soon: what holds it is busy, or has just started.") % {"why": why_not}
    return why_not


def too_big_message(size: int) -> str:
    return _("It would take %(needed)s GiB, which is more than any device here holds.") % {"needed": _gib_number(size)}


def refusal_error(decision: PlacementDecision, waits: bool) -> PlatformError:
    """The error for a decision that placed nothing. `waits`: the caller can wait until there is room."""
    trace = decision.trace
    if trace and all(candidate.why in NODE_REASONS for candidate in trace):
        worst = next((candidate for candidate in trace if candidate.why == Reason.ENGINE), trace[-1])
        return EngineUnavailable(reason_message(worst.why, text=worst.text) or None, retry_after=15)
    error_class = NoRoomYet if waits else InsufficientResources
    shortage = _shortage_message(list(trace))
    is_occupied = any(candidate.why in OCCUPANCY_REASONS for candidate in trace)
    text = format_lazy("{} {}", shortage, MAKE_ROOM) if is_occupied else shortage
    return error_class(text, details=_missing_memory(decision), retry_after=RETRY_SECONDS)


def _shortage_message(trace: list[Candidate]) -> str:
    if not trace:
        return _("No machine has a device of the kind that the model asks for.")
    if all(candidate.why == Reason.LIMIT for candidate in trace):
        return reason_message(Reason.LIMIT)
    short = [candidate for candidate in trace if candidate.why in SIZE_REASONS]
    if not short:
        return _("No device is fit for it: %(why)s") % {"why": _candidate_message(trace[0])}
    best = max(short, key=lambda candidate: candidate.free - candidate.needed)
    return _("No device has enough free memory: %(needed)s GiB needed, at most %(free)s GiB free.") % {
        "needed": _gib_number(best.needed),
        "free": _gib_number(best.free),
    }


def _missing_memory(decision: PlacementDecision) -> dict[str, Any]:
    """Needed and free MiB of the device that came closest to having room."""
    short = [candidate for candidate in decision.trace if candidate.why in SIZE_REASONS]
    if not short:
        return {}
    best = max(short, key=lambda candidate: candidate.free - candidate.needed)
    return {"needed_mib": -(-best.needed // MIB), "free_mib": max(0, best.free) // MIB}


def _candidate_message(candidate: Candidate) -> str:
    message = reason_message(candidate.why, candidate.needed, candidate.free, candidate.capacity, candidate.text)
    if message:
        return message
    return _("taken") if candidate.taken else _("has the room")


def gib(size: int) -> str:
    """The size with its unit, for tables."""
    return f"{_gib_number(size)} GiB"


def _gib_number(size: int) -> str:
    return f"{max(0, size) / GIB:.1f}"
