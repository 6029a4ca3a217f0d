"""Writes this machine's rows: the node with its fence and its engines, and its devices."""

import logging
import socket

from django.conf import settings
from django.db import transaction
from django.db.models import F
from django.utils import timezone

from core import process_identity
from engines import registry
from inference.models import Device, Node
from node_agent.devices import DeviceReading

logger = logging.getLogger(__name__)


def session_id() -> str:
    """A value that changes whenever all processes here have ended: with each `up`, else with each boot."""
    return settings.SESSION or process_identity.boot_id()


@transaction.atomic
def register() -> tuple[Node, bool]:
    """Give this machine's row a new fence, with which no earlier agent can write any more. Sends no heartbeat.

    Returns the node and whether the session has changed.
    """
    node, _created = Node.objects.get_or_create(name=socket.gethostname(), data_folder=str(settings.DATA_DIR))
    before, now = node.session, session_id()
    Node.objects.filter(pk=node.pk).update(fence=F("fence") + 1, session=now)
    node.refresh_from_db()
    return node, before != now


def record_devices(
    node: Node, readings: list[DeviceReading], ours: dict[tuple[str, int], int], suspicions: dict[tuple[str, int], str]
) -> None:
    """Write the readings, the bytes that our engines use (`ours`) and why a device is suspect.

    The row of a device that is gone stays, marked as suspect.
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


def engine_problems() -> dict[str, str]:
    """Engine name → why it cannot start on this machine now; empty if it can."""
    return {name: str(engine.unavailable_reason() or "") for name, engine in registry.engines().items()}


def record_heartbeat(node: Node) -> bool:
    """Record a heartbeat and which engines can start. False if another agent has taken over."""
    node.engines = engine_problems()
    rows = Node.objects.filter(pk=node.pk, fence=node.fence)
    return bool(rows.update(heartbeat_at=timezone.now(), engines=node.engines))
