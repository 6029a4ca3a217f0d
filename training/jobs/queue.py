"""The queue of training jobs: which job is next, and why a job still waits.

Fair between tenants: the tenant with the fewest running jobs is next, then the job that has waited longest. Smaller
jobs may overtake one that does not fit for a while; then the devices that could hold it are reserved for it.
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
from inference.placement.types import (
    Candidate,
    ClusterView,
    DeviceView,
    PlacementDecision,
    PlacementRequest,
    ResourceOption,
)
from training import base_models
from training.jobs import resources, transitions
from training.models import TrainingJob

LIMIT, AHEAD = "limit", "ahead"
RESERVE_AFTER = timedelta(minutes=10)
LEASE_SLACK = timedelta(minutes=2)


@dataclass(frozen=True)
class WaitingJob:
    """The fields of a queued job that decide its turn."""

    pk: str
    tenant_id: str
    queued_at: datetime
    estimate: dict = field(default_factory=dict)


class WaitQueue:
    """Waiting jobs in the order of their turns; `running` counts jobs by tenant, the caller adds those it places."""

    def __init__(self, waiting: list[WaitingJob], running: Counter[str]):
        self.running = Counter(running)
        self._queues: dict[str, deque[WaitingJob]] = defaultdict(deque)
        for job in sorted(waiting, key=lambda job: (job.queued_at, job.pk)):
            self._queues[job.tenant_id].append(job)

    def __iter__(self) -> Iterator[WaitingJob]:
        while heads := [queue[0] for queue in self._queues.values() if queue]:
            first = min(heads, key=lambda job: (self.running[job.tenant_id], job.queued_at, job.pk))
            yield self._queues[first.tenant_id].popleft()


def read_queue() -> WaitQueue:
    """Read from the rows."""
    fields = ("pk", "tenant_id", "queued_at", "estimate")
    waiting = [WaitingJob(*row) for row in TrainingJob.objects.waiting().order_by().values_list(*fields)]
    return WaitQueue(waiting, Counter(TrainingJob.objects.placed().order_by().values_list("tenant_id", flat=True)))


def positions() -> dict[str, int]:
    """Job id → its position in the queue, from 1, assuming that each job finds room in turn."""
    found, waiting_jobs = {}, read_queue()
    for position, job in enumerate(waiting_jobs, 1):
        found[job.pk] = position
        waiting_jobs.running[job.tenant_id] += 1
    return found


def wait_reason(job: TrainingJob) -> str:
    """Why it still waits, as a sentence for its tenant."""
    if LIMIT in job.waits:
        return _("Your tenant runs as many training jobs as it may at once (%(most)d).") % {
            "most": settings.JOBS_PER_TENANT
        }
    if AHEAD in job.waits:
        return _("The device goes to a training job that has waited longer.")
    if "trace" in job.waits:
        trace = tuple(Candidate(**fields) for fields in job.waits["trace"])
        return reason_messages.decision_message(PlacementDecision(trace=trace, waits=job.waits["waits"]))
    return _("It waits for its turn.")


# --- placing


def _reclaim_lost_jobs() -> None:
    """Takes jobs back from nodes that have been stale for so long that their trainers have ended with their leases."""
    stale_after = timedelta(seconds=settings.ENGINE_LEASE_SECONDS) + LEASE_SLACK
    online = Node.objects.filter(heartbeat_at__gt=Now() - stale_after)
    lost = TrainingJob.objects.placed().exclude(node__in=online)
    for job in lost:
        with transaction.atomic():
            if transitions.reclaim(job, lost):
                memory_ledger.release(job.pk)


def place_jobs() -> None:
    """One pass over the whole queue: each job that may run and finds room gets a node."""
    _reclaim_lost_jobs()
    waiting_jobs, room = read_queue(), _QueuePass(resources.devices())
    for job in waiting_jobs:
        if waiting_jobs.running[job.tenant_id] >= settings.JOBS_PER_TENANT:
            _save_wait_reason(job, {LIMIT: settings.JOBS_PER_TENANT})
        elif _place(job, room):
            waiting_jobs.running[job.tenant_id] += 1
        else:
            room.record_refusal(job)


class _QueuePass:
    """What one pass has found out: devices reserved for jobs that have waited long, and sizes that find no room."""

    def __init__(self, devices: list[DeviceView]):
        self.devices = devices
        self.reserved: set[int] = set()
        self._smallest_refused: dict[str, int] = {}  # device kind → bytes

    @property
    def free(self) -> set[int]:
        return {device.id for device in self.devices} - self.reserved

    def options(self, job: WaitingJob) -> tuple[ResourceOption, ...]:
        return resources.resource_options(job.estimate, self.devices)

    def cannot_fit(self, job: WaitingJob) -> bool:
        """An earlier job that needs no more has just found no room: this one need not be tried."""
        return all(
            option.share >= self._smallest_refused.get(option.kind, option.share + 1) for option in self.options(job)
        )

    def record_refusal(self, job: WaitingJob) -> None:
        for option in self.options(job):
            smallest = self._smallest_refused.get(option.kind, option.share)
            self._smallest_refused[option.kind] = min(option.share, smallest)
            if timezone.now() - job.queued_at > RESERVE_AFTER:
                self.reserved |= {device.id for device in self.devices if _could_hold(option, device)}


def _could_hold(option: ResourceOption, device: DeviceView) -> bool:
    """If nothing else ran there."""
    return device.kind == option.kind and device.usable >= option.share


@transaction.atomic
def _place(waiting: WaitingJob, room: _QueuePass) -> bool:
    """False if there is no room for it, or it no longer waits."""
    if room.cannot_fit(waiting):
        return False
    job = TrainingJob.objects.select_for_update(of=["self"]).waiting().filter(pk=waiting.pk).first()
    if job is None:
        return False
    request = PlacementRequest(job.pk, room.options(waiting))
    decision = claim.place_and_claim(job.pk, request, lambda: _current_view(job, room.free))
    if not decision.placed:
        trace = [asdict(candidate) for candidate in decision.trace]
        waits = {"trace": trace, "waits": decision.waits} if trace or not room.reserved else {AHEAD: True}
        _save_wait_reason(waiting, waits)
        return False
    return transitions.place(job, decision.devices[0].node_id, claim.placement_json(decision))


def _current_view(job: TrainingJob, free: set[int]) -> ClusterView:
    """Limited to these devices."""
    view = cluster_view.view_for_workload(base_models.ENGINE, job.queued_at)
    return replace(view, devices=tuple(device for device in view.devices if device.id in free))


def _save_wait_reason(waiting: WaitingJob, waits: dict) -> None:
    TrainingJob.objects.waiting().filter(pk=waiting.pk).exclude(waits=waits).update(waits=waits)
