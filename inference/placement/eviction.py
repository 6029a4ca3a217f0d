"""Who has to go so that somebody else has room, and who is spared."""

from collections.abc import Iterable

from inference.placement.types import Claims, Holder, PlacementRequest, Snapshot, Why


def spared_because(holder: Holder, request: PlacementRequest, snapshot: Snapshot) -> str:
    """Why this instance may not be evicted now; empty if it may."""
    rules = [
        (Why.SIBLING, holder.model_id == request.model_id),
        (Why.PINNED, holder.pinned),
        (Why.STARTING, holder.resident is None),
        (Why.BUSY, holder.idle is None),
        (Why.AWAITED, holder.awaited),
        (Why.YOUNG, holder.resident is not None and holder.resident < snapshot.residency),
        (Why.AHEAD, bool(holder.holds.keys() & snapshot.awaited)),
    ]
    in_force = {Why.AHEAD} if holder.going else set(Why)
    rules += _spared_from_standing_wishes(holder, request, snapshot) if request.standing else []
    return next((why.value for why, holds in rules if holds and why in in_force), "")


def _spared_from_standing_wishes(holder: Holder, request: PlacementRequest, snapshot: Snapshot) -> list:
    """Such a wish comes back again and again, and only for models with replicas: none of them goes for another one's.

    Who goes was not used for a while, nor after the model that wants more.
    """
    own = min((each.idle or 0.0 for each in snapshot.holders if each.model_id == request.model_id), default=0.0)
    return [
        (Why.SCALED, holder.scaled),
        (Why.HIGHER, holder.priority > request.priority),
        (Why.USED, holder.idle is not None and holder.idle < max(snapshot.residency, own)),
    ]


def price(victims: Iterable[Holder]) -> tuple:
    """To be compared: the highest priority that has to go, how many, and how long the last of them was idle."""
    going = [victim for victim in victims if not victim.going]
    idle = min((victim.idle or 0 for victim in going), default=0)
    return max((victim.priority for victim in going), default=0), len(going), -idle


def victims_for(claims: Claims, slots: int, evictable: list[Holder]) -> tuple[Holder, ...] | None:
    """Who has to go so that the claims fit: lowest priority first, then longest idle, and nobody in vain."""
    chosen: list[Holder] = []
    for holder in sorted(evictable, key=_worth):
        if _enough(claims, slots, chosen):
            break
        if _helps(holder, claims, slots, chosen):
            chosen.append(holder)
    if not _enough(claims, slots, chosen):
        return None
    for holder in sorted(chosen, key=_worth, reverse=True):
        rest = [other for other in chosen if other is not holder]
        chosen = rest if _enough(claims, slots, rest) else chosen
    return tuple(chosen)


def _worth(holder: Holder) -> tuple:
    return (not holder.going, holder.priority, -(holder.idle or 0), holder.instance_id)


def _short(claims: Claims, victims: list[Holder]) -> dict[int, int]:
    """Device id → bytes that are still missing there."""
    missing = {}
    for device, size in claims:
        freed = sum(victim.holds.get(device.id, 0) for victim in victims)
        if size > device.free + freed:
            missing[device.id] = size - device.free - freed
    return missing


def _slots_short(slots: int, victims: list[Holder]) -> bool:
    return slots + sum(not victim.going for victim in victims) < 1


def _enough(claims: Claims, slots: int, victims: list[Holder]) -> bool:
    return not _short(claims, victims) and not _slots_short(slots, victims)


def _helps(holder: Holder, claims: Claims, slots: int, victims: list[Holder]) -> bool:
    frees_a_slot = not holder.going and _slots_short(slots, victims)
    return frees_a_slot or bool(holder.holds.keys() & _short(claims, victims).keys())
