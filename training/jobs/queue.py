"""The queue of training jobs: whose turn it is, and why one still waits.

Fair between tenants: who has least running goes first, then who has waited longest. One for which there is no room is
passed by smaller ones for a while; then the devices that could hold it are kept for it.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction
from django.db.models.functions import Now
from django.utils import timezone
from django.utils.translation import gettext as _

from inference import memory_ledger
from inference.models import Node
from inference.placement import claim, cluster_view, reason_messages
from inference.placement.types import Candidate, Decision, DeviceView, PlacementRequest, Snapshot, Way
from training.jobs import resources, transitions
from training.models import TrainingJob

LIMIT, AHEAD = "limit", "ahead"
PATIENCE = timedelta(minutes=10)
LEASE_SLACK = timedelta(minutes=2)


@dataclass(frozen=True)
class Waiting:
    """A job in the queue, as far as its turn depends on it."""

    pk: str
    tenant_id: str
    queued_at: datetime
    estimate: dict = field(default_factory=dict)


class Line:
    """Who waits, in the order of their turns; `running` counts by tenant, and whoever places a job tells it."""

    def __init__(self, waiting: list[Waiting], running: Counter[str]):
        self.running = Counter(running)
        self._queues: dict[str, deque[Waiting]] = defaultdict(deque)
        for job in sorted(waiting, key=lambda job: (job.queued_at, job.pk)):
            self._queues[job.tenant_id].append(job)

    def __iter__(self) -> Iterator[Waiting]:
        while heads := [queue[0] for queue in self._queues.values() if queue]:
            first = min(heads, key=lambda job: (self.running[job.tenant_id], job.queued_at, job.pk))
            yield self._queues[first.tenant_id].popleft()


def line() -> Line:
    """As the rows are now."""
    fields = ("pk", "tenant_id", "queued_at", "estimate")
    waiting = [Waiting(*row) for row in TrainingJob.objects.waiting().order_by().values_list(*fields)]
    return Line(waiting, Counter(TrainingJob.objects.placed().order_by().values_list("tenant_id", flat=True)))


def positions() -> dict[str, int]:
    """Job id → its place in the queue, from 1, if each one in turn found room."""
    found, everybody = {}, line()
    for position, job in enumerate(everybody, 1):
        found[job.pk] = position
        everybody.running[job.tenant_id] += 1
    return found


def reason(job: TrainingJob) -> str:
    """Why it still waits, in words for its tenant."""
    if LIMIT in job.waits:
        return _("Your tenant runs as many training jobs as it may at once (%(most)d).") % {
            "most": settings.JOBS_PER_TENANT
        }
    if AHEAD in job.waits:
        return _("The device goes to a training job that has waited longer.")
    if "trace" in job.waits:
        trace = tuple(Candidate(**word) for word in job.waits["trace"])
        return reason_messages.summary(Decision(trace=trace, waits=job.waits["waits"]))
    return _("It waits for its turn.")


# --- placing


def _take_back() -> None:
    """Jobs of machines that have been silent for so long that their trainers have ended with their leases."""
    silence = timedelta(seconds=settings.ENGINE_LEASE_SECONDS) + LEASE_SLACK
    there = Node.objects.filter(heartbeat_at__gt=Now() - silence)
    lost = TrainingJob.objects.placed().exclude(node__in=there)
    for job in lost:
        with transaction.atomic():
            if transitions.take_back(job, lost):
                memory_ledger.release(job.pk)


def work() -> None:
    """One look at the whole queue: whoever may run and finds room gets a node."""
    _take_back()
    everybody, room = line(), _Room(resources.devices())
    for job in everybody:
        if everybody.running[job.tenant_id] >= settings.JOBS_PER_TENANT:
            _note(job, {LIMIT: settings.JOBS_PER_TENANT})
        elif _place(job, room):
            everybody.running[job.tenant_id] += 1
        else:
            room.refuse(job)


class _Room:
    """What one look at the queue has learnt: devices that are kept for who has waited long, and what finds no room."""

    def __init__(self, there: list[DeviceView]):
        self.there, self.kept = there, set()
        self._too_much: dict[str, int] = {}  # kind of device → the least that found no room

    @property
    def free(self) -> set[int]:
        return {device.id for device in self.there} - self.kept

    def ways(self, job: Waiting) -> tuple[Way, ...]:
        return resources.ways(job.estimate, self.there)

    def is_hopeless(self, job: Waiting) -> bool:
        """One whose turn came before, and that needs no more, has just found no room: it is not asked about again."""
        return all(way.share >= self._too_much.get(way.kind, way.share + 1) for way in self.ways(job))

    def refuse(self, job: Waiting) -> None:
        for way in self.ways(job):
            self._too_much[way.kind] = min(way.share, self._too_much.get(way.kind, way.share))
            if timezone.now() - job.queued_at > PATIENCE:
                self.kept |= {device.id for device in self.there if _could_hold(way, device)}


def _could_hold(way: Way, device: DeviceView) -> bool:
    """If nothing else ran there."""
    return device.kind == way.kind and device.usable >= way.share


@transaction.atomic
def _place(waiting: Waiting, room: _Room) -> bool:
    """False where there is no room for it, or it does not wait any more."""
    if room.is_hopeless(waiting):
        return False
    job = TrainingJob.objects.select_for_update(of=["self"]).waiting().filter(pk=waiting.pk).first()
    if job is None:
        return False
    request = PlacementRequest(job.pk, room.ways(waiting))
    decision = claim.settle(job.pk, request, lambda: _look(job, room.free))
    if not decision.placed:
        trace = [asdict(word) for word in decision.trace]
        _note(waiting, {"trace": trace, "waits": decision.waits} if trace or not room.kept else {AHEAD: True})
        return False
    return transitions.place(job, decision.devices[0].node_id, claim.where(decision))


def _look(job: TrainingJob, free: set[int]) -> Snapshot:
    """Only these devices, as they are now."""
    seen = cluster_view.for_work(resources.ENGINE, job.queued_at)
    return replace(seen, devices=tuple(device for device in seen.devices if device.id in free))


def _note(waiting: Waiting, why: dict) -> None:
    TrainingJob.objects.waiting().filter(pk=waiting.pk).exclude(waits=why).update(waits=why)
