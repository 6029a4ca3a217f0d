"""Which instances are evicted to make room for another one, and which are protected."""

from collections.abc import Iterable

from inference.placement.types import Claims, Holder, PlacementRequest, Snapshot, Why


def spared_because(occupant: Holder, request: PlacementRequest, cluster: Snapshot) -> str:
    """Why this instance may not be evicted now; empty if it may be."""
    rules = [
        (Why.SIBLING, occupant.model_id == request.model_id),
        (Why.PINNED, occupant.pinned),
        (Why.STARTING, occupant.resident is None),
        (Why.BUSY, occupant.idle is None),
        (Why.AWAITED, occupant.awaited),
        (Why.YOUNG, occupant.resident is not None and occupant.resident < cluster.residency),
        (Why.AHEAD, bool(occupant.holds.keys() & cluster.awaited)),
    ]
    enforced = {Why.AHEAD} if occupant.going else set(Why)
    rules += _retry_rules(occupant, request, cluster) if request.standing else []
    return next((why.value for why, applies in rules if applies and why in enforced), "")


def _retry_rules(occupant: Holder, request: PlacementRequest, cluster: Snapshot) -> list:
    """More rules when missing replicas are retried, which happens every few seconds.

    Models with several replicas lose none, and a victim must have been idle for `residency` and for as long as the
    model that wants another replica.
    """
    own_idle = min((other.idle or 0.0 for other in cluster.holders if other.model_id == request.model_id), default=0.0)
    return [
        (Why.SCALED, occupant.scaled),
        (Why.HIGHER, occupant.priority > request.priority),
        (Why.USED, occupant.idle is not None and occupant.idle < max(cluster.residency, own_idle)),
    ]


def price(victims: Iterable[Holder]) -> tuple:
    """Sort key, cheapest first: the highest priority among the victims, their number, then the shortest idle time."""
    running = [victim for victim in victims if not victim.going]
    idle = min((victim.idle or 0 for victim in running), default=0)
    return max((victim.priority for victim in running), default=0), len(running), -idle


def victims_for(claims: Claims, slots: int, evictable: list[Holder]) -> tuple[Holder, ...] | None:
    """The instances to evict so that the claims fit, lowest priority first, then longest idle. None if none do.

    A second pass drops each victim that is not needed.
    """
    chosen: list[Holder] = []
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


def _eviction_order(occupant: Holder) -> tuple:
    return (not occupant.going, occupant.priority, -(occupant.idle or 0), occupant.instance_id)


def _missing_bytes(claims: Claims, victims: list[Holder]) -> dict[int, int]:
    """Device id → bytes that are still missing on it."""
    missing = {}
    for device, size in claims:
        freed = sum(victim.holds.get(device.id, 0) for victim in victims)
        if size > device.free + freed:
            missing[device.id] = size - device.free - freed
    return missing


def _slot_is_missing(slots: int, victims: list[Holder]) -> bool:
    return slots + sum(not victim.going for victim in victims) < 1


def _fits(claims: Claims, slots: int, victims: list[Holder]) -> bool:
    return not _missing_bytes(claims, victims) and not _slot_is_missing(slots, victims)


def _frees_something_needed(occupant: Holder, claims: Claims, slots: int, victims: list[Holder]) -> bool:
    frees_a_slot = not occupant.going and _slot_is_missing(slots, victims)
    return frees_a_slot or bool(occupant.holds.keys() & _missing_bytes(claims, victims).keys())
