"""The ledger of device memory: what is promised never exceeds what there is, and nobody is promised what others hold.

An owner is whatever has an id and a row of its own: an instance, or what an app above places. A reservation that is
`leaving` belongs to an instance that has to go: its bytes are promised to somebody else already and no longer part of
`Device.reserved_bytes`, though its process still holds them.
"""

from django.db import connection, transaction
from django.db.models import F, Sum
from django.db.models.functions import Least

from accounts import configuration
from inference.models import RUNNING_STATES, Desired, Device, Instance, Reservation, StopReason, Use

LOCK = 0x5E4A1_1ED6E4  # of Postgres' advisory locks, any number that nobody else uses
CAPACITY = Least(F("usable_bytes"), F("total_bytes") - F("foreign_bytes"))


class NoRoom(Exception):
    """Another claim was faster; the surrounding transaction has to be rolled back or another device tried."""


def lock() -> None:
    """From here to the end of the transaction nobody else places, promises or releases. Devices need no order then."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK])


@transaction.atomic
def claim(owner: str, claims: dict[int, int]) -> None:
    """Reserve for `owner`; `claims` maps a device's id to bytes. Raises NoRoom."""
    lock()
    for device_id, size in sorted(claims.items()):
        _take(device_id, size)
        Reservation.objects.create(owner=owner, device_id=device_id, bytes=size)


def note(owner: str, use: Use) -> None:
    """What the owner's processes do with its memory now; told in the transaction that changes its row."""
    Reservation.objects.of(owner).exclude(use=use).update(use=use)


@transaction.atomic
def evict(instance_ids: list[str], patience: int) -> list[Instance]:
    """Ask these to go and promise away what they hold. Requests in flight get `patience` seconds to end.

    Raises NoRoom where one of them is not as it was, or is being changed by somebody at this moment.
    """
    lock()
    rows = Instance.objects.select_for_update(skip_locked=True, no_key=True, of=["self"]).select_related("model")
    victims = list(rows.filter(pk__in=instance_ids).order_by("pk"))
    if len(victims) < len(instance_ids):
        raise NoRoom
    for victim in victims:
        if victim.desired == Desired.RUNNING:
            _ask_to_go(victim, patience)
    theirs = Reservation.objects.filter(owner__in=[victim.pk for victim in victims])
    for reservation in theirs.filter(leaving=False):
        _give(reservation)
    theirs.update(leaving=True)
    return victims


def _ask_to_go(victim: Instance, patience: int) -> None:
    wish = {"desired": Desired.STOPPED, "stop_reason": StopReason.EVICTED, "stop_timeout": patience}
    if not Instance.objects.evictable().filter(pk=victim.pk).update(**wish):
        raise NoRoom
    victim.refresh_from_db()


@transaction.atomic
def reclaim(instance: Instance) -> None:
    """For one that was to go and is wanted again: its claim counts again. Raises NoRoom if it is promised away."""
    Instance.objects.select_for_update(no_key=True).get(pk=instance.pk)
    lock()
    leaving = instance.reservations.leaving()
    for reservation in leaving:
        _take(reservation.device_id, reservation.bytes)
    leaving.update(leaving=False)
    Instance.objects.filter(pk=instance.pk).update(stop_reason="")


@transaction.atomic
def release(owner: str) -> None:
    """Give back what `owner` holds. Doing it twice changes nothing."""
    lock()
    for reservation in Reservation.objects.of(owner):
        if not reservation.leaving:
            _give(reservation)
        reservation.delete()


def may_start(owner: str) -> bool:
    """Whether its processes would find what it claimed: who had to go is gone, and nobody else starts there now."""
    claims = Reservation.objects.of(owner).select_related("device")
    return not _is_being_filled([claim.device_id for claim in claims]) and all(map(_holds_its_place, claims))


def is_above_limit() -> bool:
    """As many engines run as may, and one of them is to go."""
    running = Instance.objects.filter(state__in=RUNNING_STATES)
    leaving = running.filter(pk__in=Reservation.objects.leaving().owners())
    return leaving.exists() and running.count() >= configuration.current().max_concurrent_models


def _is_being_filled(device_ids: list[int]) -> bool:
    """One start per device at a time: engines and trainers look at what is free while they start."""
    return Reservation.objects.filter(device_id__in=device_ids, use=Use.FILLING).exists()


def _holds_its_place(own: Reservation) -> bool:
    others = own.device.reservations.exclude(pk=own.pk)
    if not others.leaving().exists():
        return True
    held = others.in_use().aggregate(sum=Sum("bytes"))["sum"] or 0
    return held + own.bytes <= own.device.usable_bytes


def _take(device_id: int, size: int) -> None:
    room = Device.objects.filter(pk=device_id).annotate(capacity=CAPACITY)
    if not room.filter(capacity__gte=F("reserved_bytes") + size).update(reserved_bytes=F("reserved_bytes") + size):
        raise NoRoom(device_id)


def _give(reservation: Reservation) -> None:
    Device.objects.filter(pk=reservation.device_id).update(reserved_bytes=F("reserved_bytes") - reservation.bytes)
