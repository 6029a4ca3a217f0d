"""Device memory as the agent sees it: what our processes and others hold, what ended ones have not given back."""

import time
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass

from engines.base import GIB, MIB
from inference import memory_ledger
from inference.models import Device, DeviceKind, Instance, Node, Reservation, State
from inference.placement import memory_peaks
from node_agent import devices, folders, node, processes, shims
from node_agent.devices import Reading
from node_agent.shim.proc import descendants

RETURN_SECONDS = 60.0  # then an ended engine's memory is not waited for any longer
SLACK = 256 * MIB  # what others may take meanwhile without a process of their own
WORTH_WRITING = 16 * MIB  # every write wakes who follows instances
SERVING = (State.READY, State.DRAINING)

Key = tuple[str, int]  # kind and index of a device


@dataclass
class Debt:
    """Memory of an ended engine that must go. `limit`: so much without an owner means that it has gone."""

    before: int
    limit: int
    since: float
    now: int

    @property
    def is_overdue(self) -> bool:
        return time.monotonic() - self.since >= RETURN_SECONDS

    @property
    def suspicion(self) -> str:
        size = (self.now - self.before) / GIB
        return f"{size:.1f} GiB of an ended engine have not come back within {RETURN_SECONDS:.0f} s."


class Memory:
    """One per agent. A device whose memory is not back is suspect until it is."""

    def __init__(self, registered: Node):
        self._node = registered
        self._unowned: dict[Key, int] = {}  # as last seen while nothing was owed
        self._debts: dict[Key, Debt] = {}
        self._ended: set[tuple[str, int]] = set()  # runs whose debts are written down

    def measure(self) -> None:
        """Write what is held of each device now, and by each instance."""
        claims, readings = self._claims(), devices.read()
        held = {owner: _held(owner, claimed, readings) for owner, claimed in claims.items()}
        serving = Instance.objects.filter(pk__in=claims, state__in=SERVING).select_related("model")
        for instance in serving:
            if held[instance.pk]:
                self._note(instance, held[instance.pk])
        ending = {key for owner, claimed in claims.items() if not held[owner] for key in claimed}
        self._settle(readings, ending)
        ours = {reading.key: sum(each.get(reading.key, 0) for each in held.values()) for reading in readings}
        node.record_devices(self._node, readings, ours, self._suspicions())

    def is_back(self, owner: str, generation: int) -> bool:
        """Whether the memory of this ended run is free again, or was waited for long enough."""
        self.expect_back(owner, generation)
        self._settle(devices.read())
        is_owed = any(key in self._debts and not self._debts[key].is_overdue for key in _keys(owner))
        self._mark()
        return not is_owed

    def expect_back(self, owner: str, generation: int) -> None:
        """Its tree is gone: from now on its devices owe its memory."""
        run = (owner, generation)
        if run in self._ended:
            return
        self._ended = {known for known in self._ended if known[0] != owner} | {run}
        for key, claim in _keys(owner).items():
            if key in self._unowned:
                before = self._unowned[key]
                debt = Debt(before, before + max(SLACK, claim // 2), time.monotonic(), now=before)
                self._debts.setdefault(key, debt)

    def may_start(self, owner: str) -> bool:
        """Whether its claim is there to be taken: promised to nobody who still runs, nor on its way back."""
        if self._debts:
            self._settle(devices.read())
        is_owed = any(key in self._debts and not self._debts[key].is_overdue for key in _keys(owner))
        return not is_owed and memory_ledger.may_start(owner)

    def _claims(self) -> dict[str, dict[Key, int]]:
        """Owner → what it claims on this node."""
        found: dict[str, dict[Key, int]] = defaultdict(dict)
        for claim in Reservation.objects.filter(device__node=self._node).select_related("device"):
            found[claim.owner][claim.device.kind, claim.device.index] = claim.bytes
        return dict(found)

    def _note(self, instance: Instance, held: dict[Key, int]) -> None:
        total, first = sum(held.values()), instance.peak_bytes is None
        if first or total > instance.peak_bytes:
            memory_peaks.record(instance, max(held.values()) + (_untouched(instance) if first else 0))
        peak = max(total, instance.peak_bytes or 0)
        if not first and peak == instance.peak_bytes and abs(total - (instance.memory_bytes or 0)) < WORTH_WRITING:
            return
        Instance.objects.filter(pk=instance.pk).update(memory_bytes=total, peak_bytes=peak)

    def _settle(self, readings: list[Reading], ending: Collection[Key] = ()) -> None:
        """`ending`: devices of runs that may just have ended, whose debts are not written down yet."""
        for reading in readings:
            debt = self._debts.get(reading.key)
            if debt:
                debt.now = reading.unowned
            if debt and debt.now <= debt.limit:
                del self._debts[reading.key]
            if reading.key not in self._debts and reading.key not in ending:
                self._unowned[reading.key] = reading.unowned

    def _suspicions(self) -> dict[Key, str]:
        return {key: debt.suspicion for key, debt in self._debts.items() if debt.is_overdue}

    def _mark(self) -> None:
        for (kind, index), suspicion in self._suspicions().items():
            Device.objects.filter(node=self._node, kind=kind, index=index).update(suspect=suspicion)


def _keys(owner: str) -> dict[Key, int]:
    """The devices that it was placed on, with the bytes claimed on each."""
    claims = Reservation.objects.of(owner).select_related("device")
    return {(claim.device.kind, claim.device.index): claim.bytes for claim in claims}


def _held(owner: str, claims: dict[Key, int], readings: list[Reading]) -> dict[Key, int]:
    """What its process tree holds on the devices that it was placed on; nothing once the tree has begun to end."""
    state = shims.read(folders.folder_of(owner))
    if not shims.is_running(state) or state.phase != "running":
        return {}
    tree = [process.pid for process in descendants(state.shim_pid)]
    seen = [reading for reading in readings if tree and reading.key in claims]
    return {reading.key: _on(reading, tree, claims[reading.key]) for reading in seen}


def _on(reading: Reading, tree: list[int], claim: int) -> int:
    """Where the driver does not know processes by our pids, an engine is taken to hold what it claimed."""
    if reading.kind == DeviceKind.CPU:
        return sum(map(processes.memory_of, tree))
    return sum(reading.holders.get(pid, 0) for pid in tree) or claim


def _untouched(instance: Instance) -> int:
    """Main memory of a cache counts only once something was written to it, which later requests will do."""
    return instance.placement["kv_cache"] if instance.placement["device_kind"] == DeviceKind.CPU else 0
