"""Which instances are evicted to make room for another one, and which are protected."""

from collections.abc import Iterable

from inference.placement.types import Claims, ClusterView, Occupant, PlacementRequest, Reason


def protection_reason(occupant: Occupant, request: PlacementRequest, cluster: ClusterView) -> str:
    """Why this instance may not be evicted now; empty if it may be."""
    rules = [
        (Reason.SAME_MODEL, occupant.model_id == request.model_id),
        (Reason.PINNED, occupant.pinned),
        (Reason.STARTING, occupant.resident is None),
        (Reason.BUSY, occupant.idle is None),
        (Reason.HAS_WAITERS, occupant.has_waiters),
        (Reason.RECENTLY_STARTED, occupant.resident is not None and occupant.resident < cluster.residency),
        (Reason.EARLIER_WAITER, bool(occupant.held_bytes.keys() & cluster.awaited)),
    ]
    enforced = {Reason.EARLIER_WAITER} if occupant.stopping else set(Reason)
    rules += _retry_rules(occupant, request, cluster) if request.is_retry else []
    return next((why.value for why, applies in rules if applies and why in enforced), "")


def _retry_rules(occupant: Occupant, request: PlacementRequest, cluster: ClusterView) -> list[tuple[Reason, bool]]:
    """More rules when missing replicas are retried, which happens every few seconds.

    Models with several replicas lose none, and a victim must have been idle for `residency` and for as long as the
    model that wants another replica.
    """
    own_idle = min(
        (other.idle or 0.0 for other in cluster.occupants if other.model_id == request.model_id), default=0.0
    )
    return [
        (Reason.REPLICATED, occupant.replicated),
        (Reason.HIGHER_PRIORITY, occupant.priority > request.priority),
        (Reason.RECENTLY_USED, occupant.idle is not None and occupant.idle < max(cluster.residency, own_idle)),
    ]


def eviction_cost(victims: Iterable[Occupant]) -> tuple[int, int, float]:
    """Sort key, cheapest first: the highest priority among the victims, their number, then the shortest idle time."""
    running = [victim for victim in victims if not victim.stopping]
    idle = min((victim.idle or 0 for victim in running), default=0)
    return max((victim.priority for victim in running), default=0), len(running), -idle


def choose_victims(claims: Claims, slots: int, evictable: list[Occupant]) -> tuple[Occupant, ...] | None:
    """The instances to evict so that the claims fit, lowest priority first, then longest idle. None if none do.

    A second pass drops each victim that is not needed.
    """
    chosen: list[Occupant] = []
    for occupant in sorted(evictable, key=_eviction_order):
        if _fits(claims, slots, chosen):
            break
        if _frees_something_needed(occupant, claims, slots, chosen):
            chosen.append(occupant)
    if not _fits(claims, slots, chosen):
        return None
    for occupant in sorted(chosen, key=_eviction_order, reverse=True):
        rest = [other for other in chosen if other is not occupant]
        chosen = rest if _fits(claims, slots, rest) else chosen
    return tuple(chosen)


def _eviction_order(occupant: Occupant) -> tuple[bool, int, float, str]:
    return (not occupant.stopping, occupant.priority, -(occupant.idle or 0), occupant.instance_id)


def _missing_bytes(claims: Claims, victims: list[Occupant]) -> dict[int, int]:
    """Device id → bytes that are still missing on it."""
    missing = {}
    for device, size in claims:
        freed = sum(victim.held_bytes.get(device.id, 0) for victim in victims)
        if size > device.free + freed:
            missing[device.id] = size - device.free - freed
    return missing


def _slot_is_missing(slots: int, victims: list[Occupant]) -> bool:
    return slots + sum(not victim.stopping for victim in victims) < 1


def _fits(claims: Claims, slots: int, victims: list[Occupant]) -> bool:
    return not _missing_bytes(claims, victims) and not _slot_is_missing(slots, victims)


def _frees_something_needed(occupant: Occupant, claims: Claims, slots: int, victims: list[Occupant]) -> bool:
    frees_a_slot = not occupant.stopping and _slot_is_missing(slots, victims)
    return frees_a_slot or bool(occupant.held_bytes.keys() & _missing_bytes(claims, victims).keys())
