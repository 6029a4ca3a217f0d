"""Messages for placement decisions. Tenants see neither the names of nodes nor models of other tenants."""

from django.utils.text import format_lazy
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy as lazy

from accounts.actor import Actor
from core.errors import EngineUnavailable, InsufficientResources, NoRoomYet, PlatformError
from engines.base import MIB
from inference.placement.types import Candidate, Decision, Why

GIB = 1024**3
RETRY_SECONDS = 30
MAKE_ROOM = lazy(
    "Stop another model, let this one take less, or try again later: GET /api/models/{ref}/explain says who holds what."
)
OTHERS_HOLD_IT = {Why.NO_ROOM, Why.LIMIT, Why.TOO_FEW, Why.MAIN_MEMORY}
WORDS = {
    Why.SILENT: lazy("Its worker does not answer."),
    Why.ENGINE: "{text}",
    Why.SUSPECT: "{text}",
    Why.OTHER_NODE: lazy("The profile names another machine."),
    Why.CORES: lazy("It has not enough cores."),
    Why.TOO_SMALL: lazy("{needed} GiB needed, more than the {capacity} GiB that ours may take"),
    Why.NO_ROOM: lazy("{free} of {capacity} GiB free, {needed} GiB needed"),
    Why.TOO_FEW: lazy("Its machine has not enough such devices with room."),
    Why.MAIN_MEMORY: lazy("Its machine has not enough free main memory."),
    Why.LIMIT: lazy("As many models run as may (max_concurrent_models)."),
    Why.PINNED: lazy("pinned"),
    Why.BUSY: lazy("requests are in flight"),
    Why.AWAITED: lazy("requests wait for it"),
    Why.STARTING: lazy("starting"),
    Why.YOUNG: lazy("started a moment ago"),
    Why.SIBLING: lazy("the same model"),
    Why.HIGHER: lazy("of a higher priority"),
    Why.USED: lazy("used a moment ago"),
    Why.SCALED: lazy("one of several replicas"),
    Why.AHEAD: lazy("its room goes to a model that has waited longer"),
}
OF_THE_NODE = {Why.SILENT, Why.ENGINE}
OF_THE_SIZE = {Why.NO_ROOM, Why.TOO_SMALL}


def reason(why: str, needed: int = 0, free: int = 0, capacity: int = 0, text: str = "") -> str:
    """The message for one reason code; sizes in bytes."""
    if not why:
        return ""
    message = str(WORDS[Why(why)])
    return message.format(needed=_gib_number(needed), free=_gib_number(free), capacity=_gib_number(capacity), text=text)


def line(candidate: Candidate) -> str:
    """For operators: profile, node, device and the result for it."""
    result = f"{candidate.node} {candidate.device}: {_candidate_message(candidate)}"
    return f"{candidate.profile}, {result}" if candidate.profile else result


def may_name(tenant_id: str, actor: Actor) -> bool:
    """Whether a model of that tenant may be named to this actor."""
    return actor.is_operator or (actor.tenant is not None and actor.tenant.pk == tenant_id)


def candidate(found: Candidate, actor: Actor) -> dict:
    """The result for one device as the API shows it; memory in MiB."""
    hidden = not actor.is_operator and found.why == Why.SUSPECT  # `text` describes the machine
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


def summary(decision: Decision) -> str:
    """The decision in one sentence."""
    evicted = sum(not victim.going for victim in decision.victims)
    return _outcome_message(decision.placed, decision.waits, evicted, str(_shortage_message(list(decision.trace))))


def kept_summary(record: dict, trace: list[Candidate]) -> str:
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


def too_big(size: int) -> str:
    return _("It would take %(needed)s GiB, which is more than any device here holds.") % {"needed": _gib_number(size)}


def refusal(decision: Decision, waits: bool) -> PlatformError:
    """The error for a decision that placed nothing. `waits`: the caller can wait until there is room."""
    trace = decision.trace
    if trace and all(candidate.why in OF_THE_NODE for candidate in trace):
        worst = next((candidate for candidate in trace if candidate.why == Why.ENGINE), trace[-1])
        return EngineUnavailable(reason(worst.why, text=worst.text) or None, retry_after=15)
    error_class = NoRoomYet if waits else InsufficientResources
    text = _shortage_message(list(trace))
    if any(candidate.why in OTHERS_HOLD_IT for candidate in trace):
        text = format_lazy("{} {}", text, MAKE_ROOM)
    return error_class(text, details=_missing_memory(decision), retry_after=RETRY_SECONDS)


def _shortage_message(trace: list[Candidate]) -> str:
    if not trace:
        return _("No machine has a device of the kind that the model asks for.")
    if all(candidate.why == Why.LIMIT for candidate in trace):
        return reason(Why.LIMIT)
    short = [candidate for candidate in trace if candidate.why in OF_THE_SIZE]
    if not short:
        return _("No device is fit for it: %(why)s") % {"why": _candidate_message(trace[0])}
    best = max(short, key=lambda candidate: candidate.free - candidate.needed)
    return _("No device has enough free memory: %(needed)s GiB needed, at most %(free)s GiB free.") % {
        "needed": _gib_number(best.needed),
        "free": _gib_number(best.free),
    }


def _missing_memory(decision: Decision) -> dict:
    """Needed and free MiB of the device that came closest to having room."""
    short = [candidate for candidate in decision.trace if candidate.why in OF_THE_SIZE]
    if not short:
        return {}
    best = max(short, key=lambda candidate: candidate.free - candidate.needed)
    return {"needed_mib": -(-best.needed // MIB), "free_mib": max(0, best.free) // MIB}


def _candidate_message(candidate: Candidate) -> str:
    message = reason(candidate.why, candidate.needed, candidate.free, candidate.capacity, candidate.text)
    if message:
        return message
    return _("taken") if candidate.taken else _("has the room")


def gib(size: int) -> str:
    """The size with its unit, for tables."""
    return f"{_gib_number(size)} GiB"


def _gib_number(size: int) -> str:
    return f"{max(0, size) / GIB:.1f}"
