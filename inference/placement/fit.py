"""The word on each device: why it is refused, or that it has the room."""

from collections.abc import Iterable

from inference.placement.types import Candidate, DeviceView, Snapshot, Way, Why


def by_node(devices: Iterable[DeviceView]) -> dict[str, list[DeviceView]]:
    groups: dict[str, list[DeviceView]] = {}
    for device in devices:
        groups.setdefault(device.node_id, []).append(device)
    return groups


def unfit(way: Way, device: DeviceView) -> tuple[str, str]:
    """Why this device is out of the question, whatever is free on it: the reason, and somebody's words on it."""
    rules = [
        (Why.OTHER_NODE, bool(way.node) and way.node != device.node_name, way.node),
        (Why.SILENT, device.silent, ""),
        (Why.ENGINE, bool(device.node_problem), device.node_problem),
        (Why.SUSPECT, bool(device.suspect), device.suspect),
        (Why.CORES, bool(device.cores) and way.cores > (device.cores or 0), ""),
    ]
    return next(((why.value, text) for why, holds, text in rules if holds), ("", ""))


def candidates(way: Way, snapshot: Snapshot, taken: frozenset[int] = frozenset()) -> list[Candidate]:
    """One for each device of the kind, in the order of nodes and devices; `taken` are the ids of the chosen ones."""
    found = []
    for group in by_node(snapshot.devices).values():
        refusal = _node_refusal(way, snapshot, group)
        found += [_candidate(way, device, device.id in taken, refusal) for device in group if device.kind == way.kind]
    return found


def _candidate(way: Way, device: DeviceView, taken: bool, node_refusal: str) -> Candidate:
    why, text = ("", "") if taken else unfit(way, device)
    why = why or ("" if taken else _no_room(way, device) or node_refusal)
    return Candidate(
        way.profile, device.node_name, device.label, way.share, device.free, device.capacity, why, text, taken
    )


def possible(way: Way, devices: Iterable[DeviceView]) -> bool:
    """Whether these devices could hold it if nothing else ran, whatever is wrong with them today."""
    return any(_could_hold(way, group) for group in by_node(devices).values())


def _could_hold(way: Way, group: list[DeviceView]) -> bool:
    big = [device for device in group if device.kind == way.kind and device.usable >= way.share]
    memory = max((device.usable for device in group if device.kind == "cpu"), default=0)
    cores = max((device.cores or 0 for device in group), default=0)
    enough_cores = not cores or cores >= way.cores
    return len(big) >= way.count and enough_cores and (way.kind == "cpu" or memory >= way.main_memory)


def _no_room(way: Way, device: DeviceView) -> str:
    if way.share > device.capacity:
        return Why.TOO_SMALL.value
    return Why.NO_ROOM.value if way.share > device.free else ""


def _node_refusal(way: Way, snapshot: Snapshot, group: list[DeviceView]) -> str:
    """What speaks against a device that has the room itself: its node, or the number of instances."""
    sound = [device for device in group if not unfit(way, device)[0]]
    roomy = [device for device in sound if device.kind == way.kind and way.share <= device.free]
    memory = max((device.free for device in sound if device.kind == "cpu"), default=0)
    if way.kind != "cpu" and way.main_memory > memory:
        return Why.MAIN_MEMORY.value
    if len(roomy) < way.count:
        return Why.TOO_FEW.value
    return Why.LIMIT.value if snapshot.slots < 1 else ""
