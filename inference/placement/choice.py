"""The decision itself: the ways to run a model held against the devices, the best first."""

from collections.abc import Iterable
from dataclasses import dataclass

from inference.placement.eviction import price, spared_because, victims_for
from inference.placement.fit import by_node, candidates, unfit
from inference.placement.types import (  # fmt: skip
    Candidate,
    Claims,
    Decision,
    DeviceView,
    Holder,
    PlacementRequest,
    Snapshot,
    Verdict,
    Way,
    Why,
)


@dataclass(frozen=True)
class _Fit:
    """Devices of one node that would do, and who has to go for it."""

    way: Way
    devices: tuple[DeviceView, ...]
    claims: Claims
    victims: tuple[Holder, ...]


def place(request: PlacementRequest, snapshot: Snapshot) -> Decision:
    """The first way that fits: on free devices (the emptiest first), else by the cheapest eviction.

    Never fails: a decision that places nothing says why. Equal questions have equal answers.
    """
    trace: list[Candidate] = []
    spared = {holder.instance_id: spared_because(holder, request, snapshot) for holder in snapshot.holders}
    evictable = [holder for holder in snapshot.holders if not spared[holder.instance_id]]
    for way in request.ways:
        fit = _best(way, snapshot, []) or _best(way, snapshot, evictable)
        trace += candidates(way, snapshot, _ids(fit.devices) if fit else frozenset())
        if fit:
            return _decision(fit, trace, snapshot, spared)
    return _refusal(request, snapshot, trace, spared)


def survey(request: PlacementRequest, snapshot: Snapshot) -> list[Candidate]:
    """The word on every device for every way, as things are now and without an eviction."""
    return [candidate for way in request.ways for candidate in candidates(way, snapshot)]


def _decision(fit: _Fit, trace: list[Candidate], snapshot: Snapshot, spared: dict[str, str]) -> Decision:
    claims = {device.id: size for device, size in fit.claims}
    gone = {victim.instance_id for victim in fit.victims}
    touched = _holders_on(snapshot, claims) if gone else ()
    verdicts = tuple(_verdict(holder, gone, spared) for holder in touched)
    return Decision(fit.way, fit.devices, claims, fit.victims, tuple(trace), verdicts)


def _refusal(request: PlacementRequest, snapshot: Snapshot, trace: list[Candidate], spared: dict) -> Decision:
    """Would it fit without those who may not be evicted yet? Then waiting makes sense."""
    soon = [holder for holder in snapshot.holders if spared[holder.instance_id] not in (Why.PINNED, Why.SIBLING)]
    fits = [fit for way in request.ways if (fit := _best(way, snapshot, soon))]
    wanted = frozenset(device.id for fit in fits for device, _size in fit.claims)
    verdicts = tuple(_verdict(holder, set(), spared) for holder in snapshot.holders)
    return Decision(trace=tuple(trace), holders=verdicts, waits=bool(fits), wanted=wanted)


def _holders_on(snapshot: Snapshot, devices: Iterable[int]) -> tuple[Holder, ...]:
    return tuple(holder for holder in snapshot.holders if holder.holds.keys() & set(devices))


def _verdict(holder: Holder, gone: set[str], spared: dict[str, str]) -> Verdict:
    evicted = holder.instance_id in gone
    why = "" if evicted else spared[holder.instance_id]
    return Verdict(holder.instance_id, holder.model_id, holder.model_name, holder.tenant_id, evicted, why)


def _best(way: Way, snapshot: Snapshot, evictable: list[Holder]) -> _Fit | None:
    """The cheapest fit over all nodes; of equal ones the emptiest devices, then the first by name."""
    fits = []
    for group in by_node(snapshot.devices).values():
        sound = [device for device in group if not unfit(way, device)[0]]
        if fit := _fit(way, sound, snapshot, evictable):
            fits.append(fit)
    return min(fits, key=_cost, default=None)


def _cost(fit: _Fit) -> tuple:
    emptiest = -min(device.free for device in fit.devices)
    return (*price(fit.victims), emptiest, fit.devices[0].node_name, fit.devices[0].node_id)


def _fit(way: Way, sound: list[DeviceView], snapshot: Snapshot, evictable: list[Holder]) -> _Fit | None:
    """One device after the other, each time the one that costs the fewest victims, then the emptiest."""
    left = sorted((d for d in sound if d.kind == way.kind), key=lambda d: (-d.free, d.index, d.id))
    besides = _main_memory(way, sound)
    if besides is None or len(left) < way.count:
        return None
    chosen: list[DeviceView] = []
    victims: tuple[Holder, ...] = ()
    while len(chosen) < way.count:
        tried = {d: victims_for(_claims(way, [*chosen, d], besides), snapshot.slots, evictable) for d in left}
        tried = {d: victims for d, victims in tried.items() if victims is not None}
        if not tried:
            return None
        taken = min(tried, key=lambda d: price(tried[d]))
        chosen, victims = [*chosen, taken], tried[taken]
        left.remove(taken)
    chosen.sort(key=lambda device: device.index)
    return _Fit(way, tuple(chosen), _claims(way, chosen, besides), victims)


def _main_memory(way: Way, sound: list[DeviceView]) -> list[DeviceView] | None:
    """The node's main memory if the way needs some besides its GPUs; None if it needs it and there is none."""
    if way.kind == "cpu" or not way.main_memory:
        return []
    return sorted((device for device in sound if device.kind == "cpu"), key=lambda d: (-d.free, d.index))[:1] or None


def _claims(way: Way, chosen: list[DeviceView], besides: list[DeviceView]) -> Claims:
    return (*((device, way.share) for device in chosen), *((device, way.main_memory) for device in besides))


def _ids(devices: Iterable[DeviceView]) -> frozenset[int]:
    return frozenset(device.id for device in devices)
