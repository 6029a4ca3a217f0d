"""The placement decision: tries the options to run a model on the devices, best option first."""

from collections.abc import Iterable
from dataclasses import dataclass

from inference.placement.eviction import choose_victims, eviction_cost, protection_reason
from inference.placement.fit import evaluate_devices, group_by_node, unfit_reason
from inference.placement.types import (
    Candidate,
    Claims,
    ClusterView,
    DeviceView,
    EvictionVerdict,
    Occupant,
    PlacementDecision,
    PlacementRequest,
    Reason,
    ResourceOption,
)


@dataclass(frozen=True)
class _Fit:
    """Devices of one node that fit, and the instances to evict for them."""

    option: ResourceOption
    devices: tuple[DeviceView, ...]
    claims: Claims
    victims: tuple[Occupant, ...]


def choose_placement(request: PlacementRequest, cluster: ClusterView) -> PlacementDecision:
    """The first option that fits: on free devices (the emptiest first), else with the cheapest eviction.

    Never raises: a decision that places nothing says why. Deterministic.
    """
    trace: list[Candidate] = []
    protected = {occupant.instance_id: protection_reason(occupant, request, cluster) for occupant in cluster.occupants}
    evictable = [occupant for occupant in cluster.occupants if not protected[occupant.instance_id]]
    for option in request.options:
        fit = _cheapest_fit(option, cluster, []) or _cheapest_fit(option, cluster, evictable)
        trace += evaluate_devices(option, cluster, _ids(fit.devices) if fit else frozenset())
        if fit:
            return _decision(fit, trace, cluster, protected)
    return _refusal(request, cluster, trace, protected)


def evaluate_options(request: PlacementRequest, cluster: ClusterView) -> list[Candidate]:
    """The result for each option and device, as things are now and without eviction."""
    return [candidate for option in request.options for candidate in evaluate_devices(option, cluster)]


def _decision(fit: _Fit, trace: list[Candidate], cluster: ClusterView, protected: dict[str, str]) -> PlacementDecision:
    claims = {device.id: size for device, size in fit.claims}
    evicted_ids = {victim.instance_id for victim in fit.victims}
    affected = _occupants_on(cluster, claims) if evicted_ids else ()
    verdicts = tuple(_verdict(occupant, evicted_ids, protected) for occupant in affected)
    return PlacementDecision(fit.option, fit.devices, claims, fit.victims, tuple(trace), verdicts)


def _refusal(
    request: PlacementRequest, cluster: ClusterView, trace: list[Candidate], protected: dict[str, str]
) -> PlacementDecision:
    """`waits` if it would fit once instances that are only protected for now may be evicted."""
    permanent = (Reason.PINNED, Reason.SAME_MODEL)
    evictable_later = [occupant for occupant in cluster.occupants if protected[occupant.instance_id] not in permanent]
    fits = [fit for option in request.options if (fit := _cheapest_fit(option, cluster, evictable_later))]
    wanted = frozenset(device.id for fit in fits for device, _size in fit.claims)
    verdicts = tuple(_verdict(occupant, set(), protected) for occupant in cluster.occupants)
    return PlacementDecision(trace=tuple(trace), verdicts=verdicts, waits=bool(fits), wanted=wanted)


def _occupants_on(cluster: ClusterView, devices: Iterable[int]) -> tuple[Occupant, ...]:
    return tuple(occupant for occupant in cluster.occupants if occupant.held_bytes.keys() & set(devices))


def _verdict(occupant: Occupant, evicted_ids: set[str], protected: dict[str, str]) -> EvictionVerdict:
    evicted = occupant.instance_id in evicted_ids
    why = "" if evicted else protected[occupant.instance_id]
    return EvictionVerdict(
        occupant.instance_id, occupant.model_id, occupant.model_name, occupant.tenant_id, evicted, why
    )


def _cheapest_fit(option: ResourceOption, cluster: ClusterView, evictable: list[Occupant]) -> _Fit | None:
    """The cheapest fit over all nodes; of equal ones that with the emptiest devices, then the first by name."""
    fits = []
    for group in group_by_node(cluster.devices).values():
        usable_devices = [device for device in group if not unfit_reason(option, device)[0]]
        if fit := _fit(option, usable_devices, cluster, evictable):
            fits.append(fit)
    return min(fits, key=_cost, default=None)


def _cost(fit: _Fit) -> tuple[int, int, float, int, str, str]:
    emptiest = -min(device.free for device in fit.devices)
    return (*eviction_cost(fit.victims), emptiest, fit.devices[0].node_name, fit.devices[0].node_id)


def _fit(
    option: ResourceOption, usable_devices: list[DeviceView], cluster: ClusterView, evictable: list[Occupant]
) -> _Fit | None:
    """Greedy: adds one device at a time, the one with the cheapest eviction, then the emptiest."""
    left = sorted((d for d in usable_devices if d.kind == option.kind), key=lambda d: (-d.free, d.index, d.id))
    host_memory = _host_memory(option, usable_devices)
    if host_memory is None or len(left) < option.count:
        return None
    chosen: list[DeviceView] = []
    victims: tuple[Occupant, ...] = ()
    while len(chosen) < option.count:
        found = {d: choose_victims(_claims(option, [*chosen, d], host_memory), cluster.slots, evictable) for d in left}
        feasible = {d: victims for d, victims in found.items() if victims is not None}
        if not feasible:
            return None
        cheapest = min(feasible, key=lambda d: eviction_cost(feasible[d]))
        chosen, victims = [*chosen, cheapest], feasible[cheapest]
        left.remove(cheapest)
    chosen.sort(key=lambda device: device.index)
    return _Fit(option, tuple(chosen), _claims(option, chosen, host_memory), victims)


def _host_memory(option: ResourceOption, usable_devices: list[DeviceView]) -> list[DeviceView] | None:
    """The node's CPU device if the option needs main memory beside its GPUs; None if the node has none for it."""
    if option.kind == "cpu" or not option.main_memory:
        return []
    processors = sorted((d for d in usable_devices if d.kind == "cpu"), key=lambda d: (-d.free, d.index))
    return processors[:1] or None


def _claims(option: ResourceOption, chosen: list[DeviceView], host_memory: list[DeviceView]) -> Claims:
    return (*((device, option.share) for device in chosen), *((device, option.main_memory) for device in host_memory))


def _ids(devices: Iterable[DeviceView]) -> frozenset[int]:
    return frozenset(device.id for device in devices)
