"""Invariants after the faults: the database matches the processes, and nothing is left over."""

from collections import Counter
from collections.abc import Iterator
from datetime import datetime

from django.db.models import F, Q, Sum
from django.utils import timezone

from inference.models import Desired, Device, Instance, InstanceState, Reservation, Task, TaskStatus
from verification.cluster_processes import ClusterProcesses


def find_violations(cluster: ClusterProcesses, last_fault: datetime) -> list[str]:
    """One sentence per violated invariant."""
    return [
        *_agents(cluster, last_fault),
        *_instances(),
        *_processes(cluster),
        *_ledger(),
        *_tasks(),
        *_strangers(cluster),
    ]


def _agents(cluster: ClusterProcesses, last_fault: datetime) -> Iterator[str]:
    for folder in cluster.stale_agents(last_fault):
        yield f"the agent of {folder} has not spoken since the last fault"


def _instances() -> Iterator[str]:
    """Each active instance has reached its desired state."""
    reached = Q(state=InstanceState.READY, desired=Desired.RUNNING, healthy=True, generation=F("running_generation"))
    for row in Instance.objects.active().exclude(reached):
        runs = f"run {row.running_generation} of {row.generation}, {row.crashes} crashes"
        since = (timezone.now() - row.state_since).total_seconds()
        yield f"{row.pk} is {row.state} for {since:.1f} s, wanted {row.desired}, {runs}"


def _processes(cluster: ClusterProcesses) -> Iterator[str]:
    """One shim and one engine for each active row, of its run and on its node, and no other process."""
    rows = Instance.objects.active().select_related("node")
    wanted = {(row.node.data_folder, row.pk, row.running_generation) for row in rows}
    shims, engines = _count_runs(cluster, cluster.shims()), _count_runs(cluster, cluster.engines())
    for name, found in (("shims", shims), ("engines", engines)):
        for run in wanted:
            if found[run] != 1:
                yield f"{run[1]} run {run[2]} has {found[run]} {name}"
    for run in _count_runs(cluster, cluster.marked()).keys() - wanted:
        yield f"processes of {run[1]} run {run[2]} are left, and no row asks for them"
    for pid in cluster.unaccounted():
        yield f"process {pid} is left without marks"


def _count_runs(cluster: ClusterProcesses, chosen: list) -> Counter:
    """Number of the chosen processes by (data folder, instance, run)."""
    wanted = set(chosen)
    found = ((str(folder), process) for folder in cluster.folders for process in cluster.marked(folder))
    return Counter((folder, process.instance, process.generation) for folder, process in found if process in wanted)


def _ledger() -> Iterator[str]:
    for device in Device.objects.all():
        held = device.reservations.filter(leaving=False).aggregate(sum=Sum("bytes"))["sum"] or 0
        if held != device.reserved_bytes:
            yield f"{device} says {device.reserved_bytes} bytes are reserved, its claims are {held}"
    for claim in Reservation.objects.exclude(owner__in=Instance.objects.active().values("pk")):
        yield f"{claim.owner} has ended and still holds {claim.bytes} bytes"
    for row in Instance.objects.active().exclude(pk__in=Reservation.objects.owners()):
        yield f"{row.pk} is active and holds no memory"


def _tasks() -> Iterator[str]:
    for task in Task.objects.filter(status=TaskStatus.RUNNING):
        yield f"the {task.kind} task {task.pk} has not ended"


def _strangers(cluster: ClusterProcesses) -> Iterator[str]:
    for pid in cluster.killed_strangers():
        yield f"the stranger {pid} was killed"
