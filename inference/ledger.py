"""The ledger of device memory: every claim is one conditional UPDATE, so that no device is promised twice."""

from django.db import transaction
from django.db.models import F

from inference.models import Device, Instance, Reservation


class NoRoom(Exception):
    """Another claim was faster; the surrounding transaction has to be rolled back or another device tried."""


@transaction.atomic
def claim(instance: Instance, device_ids: list[int], size: int) -> None:
    """Reserve `size` bytes on each device for `instance`. Devices are taken in id order against deadlocks."""
    for device_id in sorted(device_ids):
        room = Device.objects.filter(pk=device_id, reserved_bytes__lte=F("usable_bytes") - size)
        if not room.update(reserved_bytes=F("reserved_bytes") + size):
            raise NoRoom(device_id)
        Reservation.objects.create(instance=instance, device_id=device_id, bytes=size)


@transaction.atomic
def release(instance: Instance) -> None:
    """Give back what `instance` holds. Doing it twice changes nothing."""
    held = Reservation.objects.select_for_update().filter(instance=instance).order_by("device_id")
    for reservation in held:
        Device.objects.filter(pk=reservation.device_id).update(reserved_bytes=F("reserved_bytes") - reservation.bytes)
        reservation.delete()
