"""Brings the number of a model's instances to its wanted number of replicas, up or down."""

import logging
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

from django.db import transaction
from django.db.models import Count, F, Max, Q
from django.utils import timezone
from django.utils.translation import gettext as _

from core.errors import ModelNotFound, PlatformError
from inference import memory_ledger
from inference.models import ACTIVE_STATES, Desired, Instance, InstanceState, Reservation
from inference.placement import claim
from models_app import services as catalogue
from models_app.models import Model

logger = logging.getLogger(__name__)

STOP_TIMEOUT = 60  # the default limit for draining
FAILURE_WINDOW = timedelta(hours=1)
FIRST_BACKOFF, MAX_BACKOFF, MAX_DOUBLINGS = timedelta(seconds=30), timedelta(minutes=15), 8
NO_ROOM_RETRY_INTERVAL = 10.0  # seconds until a replica without room is tried again


@dataclass
class ScaleResult:
    """The instances that are wanted now, and the error that kept the missing ones from being placed."""

    instances: list[Instance]
    shortfall: PlatformError | None = None

    @property
    def runs(self) -> dict[str, int]:
        """Instance id → the generation that is wanted of it."""
        return {instance.pk: instance.generation for instance in self.instances}

    @property
    def refusal(self) -> PlatformError:
        """The error to raise if there is no instance at all."""
        assert self.shortfall is not None, "a model wants at least one replica: one that is missing has its error"
        return self.shortfall

    def warning(self, model: Model) -> str:
        if self.shortfall is None:
            return ""
        text = _("%(placed)d of %(wanted)d replicas have found a place: %(reason)s")
        return text % {"placed": len(self.instances), "wanted": model.replicas, "reason": self.shortfall.message}


def scale_up(
    model: Model, *, timeout: int | None = None, on_demand: bool = False, is_retry: bool = False
) -> ScaleResult:
    """Create the missing instances, evicting idle ones of other models. The caller has locked `model`.

    Reuses stopping instances first, if their memory is still theirs. If one finds no place, the error of
    claim.place_instance is in the result; ReplicaReconciler tries again as long as another instance runs.
    """
    instances = list(model.instances.wanted().order_by("replica"))
    for stopping in _revivable(model)[: max(0, model.replicas - len(instances))]:
        with suppress(memory_ledger.NoRoom):  # another start was given its memory just now
            memory_ledger.reclaim(stopping)
            stopping.request_change(
                desired=Desired.RUNNING, generation=stopping.running_generation + 1, on_demand=on_demand
            )
            instances.append(stopping)
    while len(instances) < model.replicas:
        replica = _free_number(model)
        try:
            placed = claim.place_instance(
                model, replica=replica, timeout=timeout, on_demand=on_demand, is_retry=is_retry
            )
        except PlatformError as error:
            return ScaleResult(instances, error)
        instances.append(placed)
    return ScaleResult(instances)


def scale_down(model: Model) -> None:
    """Stop the surplus instances after their requests in flight: first those that are not ready."""
    instances = sorted(
        model.instances.wanted(), key=lambda instance: (instance.state != InstanceState.READY, instance.replica)
    )
    surplus = [instance.pk for instance in instances[model.replicas :]]
    model.instances.filter(pk__in=surplus).request_stop(timeout=STOP_TIMEOUT)


def backoff_after(failures: int) -> timedelta:
    """How long to wait after this many failures of a model's replicas: doubled each time, up to MAX_BACKOFF."""
    return min(FIRST_BACKOFF * 2 ** min(failures - 1, MAX_DOUBLINGS), MAX_BACKOFF) if failures else timedelta()


class ReplicaReconciler:
    """Brings running models back to their wanted replicas. All its input is rows, so it may restart at any time."""

    def __init__(self):
        self._not_before: dict[str, float] = {}  # model id → next try after NO_ROOM, by the monotonic clock

    def work(self) -> None:
        wanted = Count("instances", filter=Q(instances__state__in=ACTIVE_STATES, instances__desired=Desired.RUNNING))
        models = Model.objects.annotate(wanted=wanted).filter(wanted__gt=0).exclude(wanted=F("replicas"))
        for model in models:
            if self._not_before.get(model.pk, 0.0) <= time.monotonic():
                with suppress(ModelNotFound):
                    self._reconcile(model)

    @transaction.atomic
    def _reconcile(self, model: Model) -> None:
        model = catalogue.lock(model)
        wanted = list(model.instances.wanted())
        if len(wanted) > model.replicas:
            scale_down(model)
        elif wanted and not _must_back_off(model):
            filled = scale_up(model, on_demand=all(instance.on_demand for instance in wanted), is_retry=True)
            if filled.shortfall:
                self._not_before[model.pk] = time.monotonic() + NO_ROOM_RETRY_INTERVAL
            logger.info("%s: %d of %d replicas", model.name, len(filled.instances), model.replicas)


def _must_back_off(model: Model) -> bool:
    since = timezone.now() - FAILURE_WINDOW
    failures = model.instances.filter(state=InstanceState.FAILED, state_since__gt=since)
    last = failures.aggregate(last=Max("state_since"))["last"]
    return last is not None and timezone.now() < last + backoff_after(failures.count())


def _revivable(model: Model) -> list[Instance]:
    """Instances that are stopping and whose memory is not reserved for another start yet."""
    stopping = model.instances.active().filter(desired=Desired.STOPPED)
    evicted = Reservation.objects.leaving().owners()
    return list(stopping.exclude(pk__in=evicted).order_by("replica"))


def _free_number(model: Model) -> int:
    taken = set(model.instances.active().values_list("replica", flat=True))
    return next(number for number in range(len(taken) + 1) if number not in taken)
