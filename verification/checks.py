"""What must hold once the faults are over: the database says what there is, and nothing is left over."""

from collections import Counter
from collections.abc import Iterator
from datetime import datetime

from django.db.models import F, Q, Sum
from django.utils import timezone

from inference.models import Desired, Device, Instance, Reservation, State, Task, TaskStatus
from verification.world import World


def broken(world: World, last_fault: datetime) -> list[str]:
    """Sentences; empty where all is well."""
    return [*_agents(world, last_fault), *_rows(), *_reality(world), *_ledger(), *_tasks(), *_strangers(world)]


def _agents(world: World, last_fault: datetime) -> Iterator[str]:
    for folder in world.silent_since(last_fault):
        yield f"the agent of {folder} has not spoken since the last fault"


def _rows() -> Iterator[str]:
    """Each has come to what is wanted of it."""
    arrived = Q(state=State.READY, desired=Desired.RUNNING, healthy=True, generation=F("running_generation"))
    for row in Instance.objects.active().exclude(arrived):
        runs = f"run {row.running_generation} of {row.generation}, {row.crashes} crashes"
        since = (timezone.now() - row.state_since).total_seconds()
        yield f"{row.pk} is {row.state} for {since:.1f} s, wanted {row.desired}, {runs}"


def _reality(world: World) -> Iterator[str]:
    """One shim and one engine for each active row, of its run and on its node, and no process besides."""
    rows = Instance.objects.active().select_related("node")
    wanted = {(row.node.data_folder, row.pk, row.running_generation) for row in rows}
    shims, engines = _runs(world, world.shims()), _runs(world, world.engines())
    for name, found in (("shims", shims), ("engines", engines)):
        for run in wanted:
            if found[run] != 1:
                yield f"{run[1]} run {run[2]} has {found[run]} {name}"
    for run in _runs(world, world.marked()).keys() - wanted:
        yield f"processes of {run[1]} run {run[2]} are left, and no row asks for them"
    for pid in world.unaccounted():
        yield f"process {pid} is left without marks"


def _runs(world: World, chosen: list) -> Counter:
    """(data folder, instance, run) → how many of these processes there are."""
    keep = set(chosen)
    found = ((str(folder), process) for folder in world.folders for process in world.marked(folder))
    return Counter((folder, each.instance, each.generation) for folder, each in found if each in keep)


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


def _strangers(world: World) -> Iterator[str]:
    for pid in world.killed_strangers():
        yield f"the stranger {pid} was killed"
