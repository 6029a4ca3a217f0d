"""Builds the input of placement from rows: devices, instances that hold their memory, and gateway reports on these."""

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime
from itertools import takewhile

from django.conf import settings
from django.utils import timezone
from django.utils.translation import gettext as _

from accounts import configuration
from inference.instances import gateway_reports
from inference.instances.gateway_reports import GatewayReports
from inference.models import Desired, Device, Instance, InstanceState, Node, PlacementRecord, Reservation
from inference.placement.types import ClusterView, DeviceView, Occupant
from models_app.models import Model


def view_for_model(model: Model) -> ClusterView:
    """The state now, for a start of `model`."""
    running = Instance.objects.active().filter(desired=Desired.RUNNING).count()
    return ClusterView(
        devices=tuple(device_views(model.framework)),
        occupants=_occupants(),
        slots=configuration.current().max_concurrent_models - running,
        residency=settings.MIN_RESIDENCY_SECONDS,
        awaited=_devices_awaited_before(model),
    )


def view_for_workload(engine: str, since: datetime) -> ClusterView:
    """For a workload other than a model; it runs in this engine's environment and waits since `since`."""
    return ClusterView(
        devices=tuple(device_views(engine)),
        occupants=_occupants(),
        residency=settings.MIN_RESIDENCY_SECONDS,
        awaited=_devices_awaited_since(since),
    )


def device_views(engine: str) -> list[DeviceView]:
    """All devices in a fixed order, with the problems of their nodes."""
    online = set(Node.objects.online().values_list("pk", flat=True))
    rows = Device.objects.select_related("node").order_by("node__name", "node_id", "kind", "index")
    return [_device_view(row, engine, row.node_id not in online) for row in rows]


def _device_view(device: Device, engine: str, stale: bool) -> DeviceView:
    node = device.node
    return DeviceView(
        id=device.pk,
        node_id=node.pk,
        node_name=node.name,
        kind=device.kind,
        index=device.index,
        total=device.total_bytes,
        usable=device.usable_bytes,
        reserved=device.reserved_bytes,
        foreign=device.foreign_bytes,
        cores=device.cores,
        stale=stale,
        node_problem=node.engines.get(engine, _("The engine %(name)s is not installed here.") % {"name": engine}),
        suspect=device.suspect,
    )


def _occupants() -> tuple[Occupant, ...]:
    traffic_now, claims = gateway_reports.read_reports(), _claims_by_owner()
    rows = Instance.objects.active().filter(node__in=Node.objects.online()).select_related("model")
    return tuple(_occupant(instance, claims[instance.pk], traffic_now) for instance in rows)


def _claims_by_owner() -> dict[str, dict[int, int]]:
    """Owner → device id → bytes that evicting it would free: without what is reserved for others already."""
    claims: dict[str, dict[int, int]] = defaultdict(dict)
    for reservation in Reservation.objects.filter(leaving=False):
        claims[reservation.owner][reservation.device_id] = reservation.bytes
    return claims


def _occupant(instance: Instance, claims: dict[int, int], traffic_now: GatewayReports) -> Occupant:
    resident = _resident_seconds(instance)
    return Occupant(
        instance_id=instance.pk,
        model_id=instance.model_id,
        model_name=instance.model.name,
        tenant_id=instance.tenant_id,
        held_bytes=claims,
        priority=instance.model.priority,
        idle=None if resident is None else _idle_seconds(instance, resident, traffic_now),
        resident=resident,
        pinned=instance.model.pinned,
        has_waiters=any(beat.waiting.get(instance.model_id) for beat in traffic_now.heartbeats),
        stopping=instance.desired == Desired.STOPPED,
        replicated=instance.model.replicas > 1,
    )


def _resident_seconds(instance: Instance) -> float | None:
    """Since it was ready; None while it is not."""
    if instance.state != InstanceState.READY:
        return None
    return (timezone.now() - (instance.ready_at or instance.state_since)).total_seconds()


def _idle_seconds(instance: Instance, resident: float, traffic_now: GatewayReports) -> float | None:
    """Seconds since the last request to this instance ended, or since it was ready; None while one is in flight."""
    if any(beat.inflight.get(instance.pk) for beat in traffic_now.heartbeats):
        return None
    since_requests = (beat.idle[instance.pk] for beat in traffic_now.heartbeats if instance.pk in beat.idle)
    return float(min([resident, *since_requests]))


def _devices_awaited_before(model: Model) -> frozenset[int]:
    """Ids of devices that other models have waited for longer than `model`: it evicts nothing there."""
    return _wanted_devices(takewhile(lambda record: record.model_id != model.pk, PlacementRecord.objects.waiting()))


def _devices_awaited_since(moment: datetime) -> frozenset[int]:
    """Ids of devices that models have waited for since `moment` or longer."""
    return _wanted_devices(PlacementRecord.objects.waiting().filter(created_at__lte=moment))


def _wanted_devices(records: Iterable[PlacementRecord]) -> frozenset[int]:
    return frozenset(device for record in records for device in record.decision["wanted"])
