"""Decisions of the placement in words: for people of a tenant without a node's name or another tenant's model."""

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
    """One code in words; sizes in bytes."""
    if not why:
        return ""
    words = str(WORDS[Why(why)])
    return words.format(needed=_figure(needed), free=_figure(free), capacity=_figure(capacity), text=text)


def line(candidate: Candidate) -> str:
    """For operators: profile, node, device and the word on it."""
    word = _word(candidate)
    where = f"{candidate.node} {candidate.device}"
    return f"{candidate.profile}, {where}: {word}" if candidate.profile else f"{where}: {word}"


def may_name(tenant_id: str, actor: Actor) -> bool:
    """Whether a model of that tenant may be named to this actor."""
    return actor.is_operator or (actor.tenant is not None and actor.tenant.pk == tenant_id)


def candidate(found: Candidate, actor: Actor) -> dict:
    """The word on one device as REST shows it; memory in MiB."""
    hidden = not actor.is_operator and found.why == Why.SUSPECT  # the agent's words on its machine
    return {
        "profile": found.profile or None,
        "node": found.node if actor.is_operator else None,
        "device": found.device,
        "fits": not found.why,
        "taken": found.taken,
        "why": _("The device is not in order.") if hidden else _word(found),
        "needed": -(-found.needed // MIB),
        "free": max(0, found.free) // MIB,
        "capacity": max(0, found.capacity) // MIB,
    }


def summary(decision: Decision) -> str:
    """One sentence for the whole."""
    evicted = sum(not victim.going for victim in decision.victims)
    return _summary(decision.placed, decision.waits, evicted, str(_why_no_room(list(decision.trace))))


def kept_summary(record: dict, trace: list[Candidate]) -> str:
    """The same for one that was written down."""
    evicted = sum(not victim["going"] for victim in record["evicted"])
    waits = record["outcome"] == "waiting"
    return _summary(record["outcome"] == "placed", waits, evicted, str(_why_no_room(trace)))


def _summary(placed: bool, waits: bool, evicted: int, why_not: str) -> str:
    if placed and evicted:
        return _("It has room when idle models give theirs back (%(count)d).") % {"count": evicted}
    if placed:
        return _("It has room.")
    if waits:
        return _("%(why)s There may be room soon: what holds it is busy, or has just started.") % {"why": why_not}
    return why_not


def too_big(size: int) -> str:
    return _("It would take %(needed)s GiB, which is more than any device here holds.") % {"needed": _figure(size)}


def refusal(decision: Decision, waits: bool) -> PlatformError:
    """The error for a decision that placed nothing. `waits`: the one who asked can wait until there is room."""
    trace = decision.trace
    if trace and all(candidate.why in OF_THE_NODE for candidate in trace):
        worst = next((each for each in trace if each.why == Why.ENGINE), trace[-1])
        return EngineUnavailable(reason(worst.why, text=worst.text) or None, retry_after=15)
    kind = NoRoomYet if waits else InsufficientResources
    text = _why_no_room(list(trace))
    if any(candidate.why in OTHERS_HOLD_IT for candidate in trace):
        text = format_lazy("{} {}", text, MAKE_ROOM)
    return kind(text, details=_figures(decision), retry_after=RETRY_SECONDS)


def _why_no_room(trace: list[Candidate]) -> str:
    if not trace:
        return _("No machine has a device of the kind that the model asks for.")
    if all(candidate.why == Why.LIMIT for candidate in trace):
        return reason(Why.LIMIT)
    short = [candidate for candidate in trace if candidate.why in OF_THE_SIZE]
    if not short:
        return _("No device is fit for it: %(why)s") % {"why": _word(trace[0])}
    best = max(short, key=lambda candidate: candidate.free - candidate.needed)
    return _("No device has enough free memory: %(needed)s GiB needed, at most %(free)s GiB free.") % {
        "needed": _figure(best.needed),
        "free": _figure(best.free),
    }


def _figures(decision: Decision) -> dict:
    """MiB of the device that came closest."""
    short = [candidate for candidate in decision.trace if candidate.why in OF_THE_SIZE]
    if not short:
        return {}
    best = max(short, key=lambda candidate: candidate.free - candidate.needed)
    return {"needed_mib": -(-best.needed // MIB), "free_mib": max(0, best.free) // MIB}


def _word(candidate: Candidate) -> str:
    word = reason(candidate.why, candidate.needed, candidate.free, candidate.capacity, candidate.text)
    if word:
        return word
    return _("taken") if candidate.taken else _("has the room")


def gib(size: int) -> str:
    """With its unit, for tables."""
    return f"{_figure(size)} GiB"


def _figure(size: int) -> str:
    return f"{max(0, size) / GIB:.1f}"
