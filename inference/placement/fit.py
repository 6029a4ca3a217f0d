"""The result for each device: why it is refused, or that it has enough free memory."""

from collections.abc import Iterable

from inference.placement.types import Candidate, ClusterView, DeviceView, Reason, ResourceOption


def group_by_node(devices: Iterable[DeviceView]) -> dict[str, list[DeviceView]]:
    groups: dict[str, list[DeviceView]] = {}
    for device in devices:
        groups.setdefault(device.node_id, []).append(device)
    return groups


def unfit_reason(option: ResourceOption, device: DeviceView) -> tuple[str, str]:
    """Why this device cannot be used, even if it were free: the reason, and a text from the agent."""
    rules = [
        (Reason.OTHER_NODE, bool(option.node) and option.node != device.node_name, option.node),
        (Reason.NODE_STALE, device.stale, ""),
        (Reason.ENGINE, bool(device.node_problem), device.node_problem),
        (Reason.SUSPECT, bool(device.suspect), device.suspect),
        (Reason.CORES, bool(device.cores) and option.cores > (device.cores or 0), ""),
    ]
    return next(((why.value, text) for why, applies, text in rules if applies), ("", ""))


def evaluate_devices(
    option: ResourceOption, cluster: ClusterView, taken: frozenset[int] = frozenset()
) -> list[Candidate]:
    """One result per device of the option's kind, ordered by node and device; `taken` are the chosen ids."""
    results = []
    for group in group_by_node(cluster.devices).values():
        refusal = _node_refusal(option, cluster, group)
        devices = [device for device in group if device.kind == option.kind]
        results += [_candidate(option, device, device.id in taken, refusal) for device in devices]
    return results


def _candidate(option: ResourceOption, device: DeviceView, taken: bool, node_refusal: str) -> Candidate:
    why, text = ("", "") if taken else unfit_reason(option, device)
    why = why or ("" if taken else _memory_refusal(option, device) or node_refusal)
    return Candidate(
        option.profile, device.node_name, device.label, option.share, device.free, device.capacity, why, text, taken
    )


def could_ever_fit(option: ResourceOption, devices: Iterable[DeviceView]) -> bool:
    """Whether it would fit on these devices if nothing else ran and all of them worked."""
    return any(_could_hold(option, group) for group in group_by_node(devices).values())


def _could_hold(option: ResourceOption, group: list[DeviceView]) -> bool:
    large_enough = [device for device in group if device.kind == option.kind and device.usable >= option.share]
    main_memory = max((device.usable for device in group if device.kind == "cpu"), default=0)
    cores = max((device.cores or 0 for device in group), default=0)
    enough_cores = not cores or cores >= option.cores
    enough_memory = option.kind == "cpu" or main_memory >= option.main_memory
    return len(large_enough) >= option.count and enough_cores and enough_memory


def _memory_refusal(option: ResourceOption, device: DeviceView) -> str:
    if option.share > device.capacity:
        return Reason.TOO_SMALL.value
    return Reason.NO_ROOM.value if option.share > device.free else ""


def _node_refusal(option: ResourceOption, cluster: ClusterView, group: list[DeviceView]) -> str:
    """Why a device with enough free memory is refused all the same: by its node, or by the limit of instances."""
    usable_devices = [device for device in group if not unfit_reason(option, device)[0]]
    with_room = [device for device in usable_devices if device.kind == option.kind and option.share <= device.free]
    main_memory = max((device.free for device in usable_devices if device.kind == "cpu"), default=0)
    if option.kind != "cpu" and option.main_memory > main_memory:
        return Reason.MAIN_MEMORY.value
    if len(with_room) < option.count:
        return Reason.TOO_FEW.value
    return Reason.LIMIT.value if cluster.slots < 1 else ""
