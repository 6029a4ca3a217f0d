"""This machine's own rows: the node with its fence, its devices, which engines it has."""

import logging
import socket
from pathlib import Path

from django.conf import settings
from django.db import transaction
from django.db.models import F
from django.utils import timezone

from engines import registry
from inference.models import Device, Node
from node_agent.devices import Reading

logger = logging.getLogger(__name__)
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def session() -> str:
    """What changes when everything here has ended meanwhile: each `up`, else each boot of the machine."""
    if settings.SESSION:
        return settings.SESSION
    return BOOT_ID.read_text().strip() if BOOT_ID.exists() else ""


@transaction.atomic
def register() -> tuple[Node, bool]:
    """This machine's row with a new fence, which ends the right of any earlier agent to write; it has not spoken yet.

    Returns the node and whether the session is another one than before.
    """
    node, _created = Node.objects.get_or_create(name=socket.gethostname(), data_folder=str(settings.DATA_DIR))
    before, now = node.session, session()
    Node.objects.filter(pk=node.pk).update(fence=F("fence") + 1, session=now)
    node.refresh_from_db()
    return node, before != now


def record_devices(
    node: Node, readings: list[Reading], ours: dict[tuple[str, int], int], suspicions: dict[tuple[str, int], str]
) -> None:
    """Write what was measured, with what our engines hold of it and why a device is not to be trusted.

    A device that is gone stays, and is marked.
    """
    seen = []
    for reading in readings:
        measured = {
            "name": reading.name,
            "total_bytes": reading.total,
            "usable_bytes": reading.usable,
            "used_bytes": reading.used,
            "foreign_bytes": max(0, reading.used - ours.get(reading.key, 0)),
            "cores": reading.cores,
            "temperature": reading.temperature,
            "suspect": suspicions.get(reading.key, ""),
            "measured_at": timezone.now(),
        }
        row, _created = Device.objects.update_or_create(
            node=node, kind=reading.kind, index=reading.index, defaults=measured
        )
        seen.append(row.pk)
    node.devices.exclude(pk__in=seen).update(suspect="The device is not there any more.")


def beat(node: Node) -> bool:
    """Say that the agent lives and which engines could start. False when another agent has taken over."""
    engines = {name: str(adapter.unavailable_because() or "") for name, adapter in registry.adapters().items()}
    rows = Node.objects.filter(pk=node.pk, fence=node.fence)
    return bool(rows.update(heartbeat_at=timezone.now(), engines=engines))
