"""The ledger of device memory: reservations never exceed the capacity of a device.

An owner is the id of a row that needs memory: an instance, or a workload of another app (a training job). A reservation
that is `leaving` belongs to an instance that is being evicted: its bytes are reserved for another owner already and
not part of `Device.reserved_bytes`, although its process still holds them.
"""

from django.db import connection, transaction
from django.db.models import F, Sum
from django.db.models.functions import Least

from accounts import configuration
from inference.models import RUNNING_STATES, Desired, Device, Instance, Reservation, StopReason, Use

LOCK = 0x5E4A1_1ED6E4  # id of a Postgres advisory lock; any number that nothing else uses
CAPACITY = Least(F("usable_bytes"), F("total_bytes") - F("foreign_bytes"))


class NoRoom(Exception):
    """Another claim was faster. Roll back the surrounding transaction, or try another device."""


def lock() -> None:
    """Until the transaction ends, no other one claims, evicts or releases. So device rows need no lock order."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK])


@transaction.atomic
def claim(owner: str, claims: dict[int, int]) -> None:
    """Reserve for `owner`; `claims` maps a device's id to bytes. Raises NoRoom."""
    lock()
    for device_id, size in sorted(claims.items()):
        _reserve(device_id, size)
        Reservation.objects.create(owner=owner, device_id=device_id, bytes=size)


def record_use(owner: str, use: Use) -> None:
    """Record what the owner's processes do with its memory now. Call it in the transaction that changes that row."""
    Reservation.objects.of(owner).exclude(use=use).update(use=use)


@transaction.atomic
def evict(instance_ids: list[str], stop_timeout: int) -> list[Instance]:
    """Stop these instances and free their reservations at once. Requests in flight get `stop_timeout` seconds to end.

    Raises NoRoom if one of them is no longer evictable, or if another transaction is changing it.
    """
    lock()
    rows = Instance.objects.select_for_update(skip_locked=True, no_key=True, of=["self"]).select_related("model")
    victims = list(rows.filter(pk__in=instance_ids).order_by("pk"))
    if len(victims) < len(instance_ids):
        raise NoRoom
    for victim in victims:
        if victim.desired == Desired.RUNNING:
            _request_stop(victim, stop_timeout)
    reservations = Reservation.objects.filter(owner__in=[victim.pk for victim in victims])
    for reservation in reservations.filter(leaving=False):
        _unreserve(reservation)
    reservations.update(leaving=True)
    return victims


def _request_stop(victim: Instance, stop_timeout: int) -> None:
    victims = Instance.objects.evictable().filter(pk=victim.pk)
    if not victims.request_stop(timeout=stop_timeout, reason=StopReason.EVICTED):
        raise NoRoom
    victim.refresh_from_db()


@transaction.atomic
def reclaim(instance: Instance) -> None:
    """Restore the reservation of an instance that was stopping. Raises NoRoom if another owner has the memory."""
    Instance.objects.select_for_update(no_key=True).get(pk=instance.pk)
    lock()
    leaving = instance.reservations.leaving()
    for reservation in leaving:
        _reserve(reservation.device_id, reservation.bytes)
    leaving.update(leaving=False)
    Instance.objects.filter(pk=instance.pk).update(stop_reason="")


@transaction.atomic
def release(owner: str) -> None:
    """Free all that `owner` has reserved. Idempotent."""
    lock()
    for reservation in Reservation.objects.of(owner):
        if not reservation.leaving:
            _unreserve(reservation)
        reservation.delete()


def may_start(owner: str) -> bool:
    """Whether its processes may start: the evicted ones have ended, and nothing else starts on its devices."""
    claims = Reservation.objects.of(owner).select_related("device")
    return not _has_start_in_progress([claim.device_id for claim in claims]) and all(map(_has_its_memory, claims))


def is_above_limit() -> bool:
    """Whether max_concurrent_models engines run and one of them is being evicted: a start must wait for its end."""
    running = Instance.objects.filter(state__in=RUNNING_STATES)
    leaving = running.filter(pk__in=Reservation.objects.leaving().owners())
    return leaving.exists() and running.count() >= configuration.current().max_concurrent_models


def _has_start_in_progress(device_ids: list[int]) -> bool:
    """One start per device at a time: engines and trainers measure the free memory while they start."""
    return Reservation.objects.filter(device_id__in=device_ids, use=Use.LOADING).exists()


def _has_its_memory(own: Reservation) -> bool:
    others = own.device.reservations.exclude(pk=own.pk)
    if not others.leaving().exists():
        return True
    held = others.in_use().aggregate(sum=Sum("bytes"))["sum"] or 0
    return held + own.bytes <= own.device.usable_bytes


def _reserve(device_id: int, size: int) -> None:
    room = Device.objects.filter(pk=device_id).annotate(capacity=CAPACITY)
    if not room.filter(capacity__gte=F("reserved_bytes") + size).update(reserved_bytes=F("reserved_bytes") + size):
        raise NoRoom(device_id)


def _unreserve(reservation: Reservation) -> None:
    Device.objects.filter(pk=reservation.device_id).update(reserved_bytes=F("reserved_bytes") - reservation.bytes)
