"""Tracks device memory: what our processes and others use, and what ended runs have not released yet."""

import time
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass

from core.units import GIB, MIB
from inference import memory_ledger
from inference.models import Device, DeviceKind, Instance, InstanceState, Node, Reservation
from inference.placement import memory_peaks
from node_agent import devices, folders, node, processes, shims
from node_agent.devices import DeviceReading
from node_agent.shim.proc import descendants

RELEASE_TIMEOUT = 60.0  # the longest wait for an ended engine's memory
RELEASE_SLACK = 256 * MIB  # growth without an owner that others may cause meanwhile
MIN_CHANGE = 16 * MIB  # every write notifies all listeners to instances
SERVING_STATES = (InstanceState.READY, InstanceState.DRAINING)

DeviceKey = tuple[str, int]  # kind and index of a device


@dataclass
class PendingRelease:
    """Memory of an ended engine that is not released yet. With at most `limit` bytes without an owner, it is."""

    before: int
    limit: int
    since: float
    now: int

    @property
    def is_overdue(self) -> bool:
        return time.monotonic() - self.since >= RELEASE_TIMEOUT

    @property
    def suspect_reason(self) -> str:
        size = (self.now - self.before) / GIB
        return f"{size:.1f} GiB of an ended engine have not come back within {RELEASE_TIMEOUT:.0f} s."


class DeviceMemory:
    """One per agent. A device with an overdue release is suspect until its memory is free."""

    def __init__(self, registered: Node):
        self._node = registered
        self._unowned: dict[DeviceKey, int] = {}  # as last measured while no release was pending
        self._pending: dict[DeviceKey, PendingRelease] = {}
        self._ended: set[tuple[str, int]] = set()  # runs whose release is tracked already

    def measure(self) -> None:
        """Measure and record the memory in use, per device and per instance."""
        claims, readings = self._claims(), devices.read_devices()
        held = {owner: _held_by_tree(owner, claimed, readings) for owner, claimed in claims.items()}
        serving = Instance.objects.filter(pk__in=claims, state__in=SERVING_STATES).select_related("model")
        for instance in serving:
            if held[instance.pk]:
                self._record_usage(instance, held[instance.pk])
        ending = {key for owner, claimed in claims.items() if not held[owner] for key in claimed}
        self._update_pending(readings, ending)
        ours = {
            reading.key: sum(held_bytes.get(reading.key, 0) for held_bytes in held.values()) for reading in readings
        }
        node.record_devices(self._node, readings, ours, self._suspicions())

    def is_released(self, owner: str, generation: int) -> bool:
        """Whether the memory of this ended run is released, or the wait for it has timed out."""
        self.expect_release(owner, generation)
        self._update_pending(devices.read_devices())
        is_pending = any(key in self._pending and not self._pending[key].is_overdue for key in _claimed_devices(owner))
        self._mark_suspects()
        return not is_pending

    def expect_release(self, owner: str, generation: int) -> None:
        """Its tree has ended: from now on its devices must release its memory."""
        run = (owner, generation)
        if run in self._ended:
            return
        self._ended = {known for known in self._ended if known[0] != owner} | {run}
        for key, claim in _claimed_devices(owner).items():
            if key in self._unowned:
                before = self._unowned[key]
                pending = PendingRelease(before, before + max(RELEASE_SLACK, claim // 2), time.monotonic(), now=before)
                self._pending.setdefault(key, pending)

    def may_start(self, owner: str) -> bool:
        """Whether the memory it claims is free: not in use by a run that still has to end, and no release pending."""
        if self._pending:
            self._update_pending(devices.read_devices())
        is_pending = any(key in self._pending and not self._pending[key].is_overdue for key in _claimed_devices(owner))
        return not is_pending and memory_ledger.may_start(owner)

    def _claims(self) -> dict[str, dict[DeviceKey, int]]:
        """Owner → its claims on this node."""
        found: dict[str, dict[DeviceKey, int]] = defaultdict(dict)
        for claim in Reservation.objects.filter(device__node=self._node).select_related("device"):
            found[claim.owner][claim.device.kind, claim.device.index] = claim.bytes
        return dict(found)

    def _record_usage(self, instance: Instance, held: dict[DeviceKey, int]) -> None:
        total, before = sum(held.values()), instance.peak_bytes
        if before is None or total > before:
            unwritten = _unwritten_cache_bytes(instance) if before is None else 0
            memory_peaks.record_peak(instance, max(held.values()) + unwritten)
        peak = max(total, before or 0)
        if peak == before and abs(total - (instance.memory_bytes or 0)) < MIN_CHANGE:
            return
        Instance.objects.filter(pk=instance.pk).update(memory_bytes=total, peak_bytes=peak)

    def _update_pending(self, readings: list[DeviceReading], ending: Collection[DeviceKey] = ()) -> None:
        """`ending`: devices of runs that may just have ended, whose release is not tracked yet."""
        for reading in readings:
            pending = self._pending.get(reading.key)
            if pending:
                pending.now = reading.unowned
            if pending and pending.now <= pending.limit:
                del self._pending[reading.key]
            if reading.key not in self._pending and reading.key not in ending:
                self._unowned[reading.key] = reading.unowned

    def _suspicions(self) -> dict[DeviceKey, str]:
        return {key: pending.suspect_reason for key, pending in self._pending.items() if pending.is_overdue}

    def _mark_suspects(self) -> None:
        for (kind, index), suspicion in self._suspicions().items():
            Device.objects.filter(node=self._node, kind=kind, index=index).update(suspect=suspicion)


def _claimed_devices(owner: str) -> dict[DeviceKey, int]:
    """The devices that the owner was placed on, with the bytes claimed on each."""
    claims = Reservation.objects.of(owner).select_related("device")
    return {(claim.device.kind, claim.device.index): claim.bytes for claim in claims}


def _held_by_tree(owner: str, claims: dict[DeviceKey, int], readings: list[DeviceReading]) -> dict[DeviceKey, int]:
    """Bytes that its process tree uses on its devices; nothing once the tree has begun to end."""
    state = shims.read(folders.folder_of(owner))
    if state is None or not shims.is_running(state) or state.phase != "running":
        return {}
    tree = [process.pid for process in descendants(state.shim_pid)]
    seen = [reading for reading in readings if tree and reading.key in claims]
    return {reading.key: _tree_bytes(reading, tree, claims[reading.key]) for reading in seen}


def _tree_bytes(reading: DeviceReading, tree: list[int], claim: int) -> int:
    """If the driver does not report our pids, the engine is assumed to use what it claimed."""
    if reading.kind == DeviceKind.CPU:
        return sum(map(processes.memory_bytes, tree))
    return sum(reading.bytes_by_pid.get(pid, 0) for pid in tree) or claim


def _unwritten_cache_bytes(instance: Instance) -> int:
    """Main memory of a cache counts only once it was written to, which later requests will do."""
    size: int = instance.placement["kv_cache"] if instance.placement["device_kind"] == DeviceKind.CPU else 0
    return size
