"""Which device an instance goes to: a pure function of a request and a snapshot, with its reasons."""

from dataclasses import dataclass, field

from inference.engines.base import Estimate


@dataclass(frozen=True)
class DeviceView:
    """One device as placement sees it; sizes in bytes."""

    id: int
    node_id: str
    node_name: str
    kind: str
    index: int
    usable: int
    reserved: int
    node_problem: str = ""  # why nothing can start on its node now
    suspect: str = ""

    @property
    def free(self) -> int:
        return self.usable - self.reserved


@dataclass(frozen=True)
class PlacementRequest:
    """What is to be placed: an estimate per kind of device, and how many devices of a node it wants."""

    estimates: dict[str, Estimate]
    device_count: int = 1


@dataclass(frozen=True)
class Decision:
    """The chosen devices of one node, or none; `trace` says why each candidate was refused or taken."""

    devices: list[DeviceView]
    estimate: Estimate | None
    trace: list[str] = field(default_factory=list)

    @property
    def placed(self) -> bool:
        return bool(self.devices)

    @property
    def bytes_per_device(self) -> int:
        return -(-self.estimate.total // len(self.devices))


def place(request: PlacementRequest, devices: list[DeviceView]) -> Decision:
    """First fit, GPUs before CPUs, nodes in the order given. Never fails: an empty decision has the reasons."""
    trace: list[str] = []
    for kind in ("cuda", "cpu"):
        if kind not in request.estimates:
            continue
        wanted = request.device_count if kind == "cuda" else 1
        for group in _by_node([device for device in devices if device.kind == kind]):
            chosen = _fitting(group, request.estimates[kind].total, wanted, trace)
            if chosen:
                return Decision(chosen, request.estimates[kind], trace)
    return Decision([], None, trace or ["No device is known: no worker has registered yet."])


def _by_node(devices: list[DeviceView]) -> list[list[DeviceView]]:
    groups: dict[str, list[DeviceView]] = {}
    for device in devices:
        groups.setdefault(device.node_id, []).append(device)
    return list(groups.values())


def _fitting(group: list[DeviceView], total: int, wanted: int, trace: list[str]) -> list[DeviceView]:
    share = -(-total // wanted)
    chosen = []
    for device in group:
        refusal = _refusal(device, share)
        trace.append(f"{device.node_name} {device.kind}:{device.index}: {refusal or f'fits {_gib(share)} GiB'}")
        if not refusal:
            chosen.append(device)
        if len(chosen) == wanted:
            return chosen
    return []


def _refusal(device: DeviceView, share: int) -> str:
    if device.node_problem:
        return device.node_problem
    if device.suspect:
        return device.suspect
    if share > device.free:
        return f"{_gib(device.free)} of {_gib(device.usable)} GiB free, {_gib(share)} GiB needed"
    return ""


def _gib(size: int) -> str:
    return f"{size / 1024**3:.1f}"
