"""What placement sees: the rows of devices, of those who hold their memory, and what gateways say of these."""

from collections import defaultdict
from datetime import datetime

from django.conf import settings
from django.utils import timezone
from django.utils.translation import gettext as _

from accounts import configuration
from inference.instances import gateway_reports
from inference.instances.gateway_reports import Traffic
from inference.models import Desired, Device, Instance, Node, Reservation, State
from inference.placement import decision_log
from inference.placement.types import DeviceView, Holder, Snapshot
from models_app.models import Model


def take(model: Model) -> Snapshot:
    """As things are now, for a start of `model`."""
    running = Instance.objects.active().filter(desired=Desired.RUNNING).count()
    return Snapshot(
        devices=tuple(devices_for(model.framework)),
        holders=_holders(),
        slots=configuration.current().max_concurrent_models - running,
        residency=settings.MIN_RESIDENCY_SECONDS,
        awaited=decision_log.devices_of_earlier_comers(model),
    )


def for_work(engine: str, since: datetime) -> Snapshot:
    """As things are now, for what is no model and runs in this engine's environment; it has waited `since` then."""
    return Snapshot(
        devices=tuple(devices_for(engine)),
        holders=_holders(),
        residency=settings.MIN_RESIDENCY_SECONDS,
        awaited=decision_log.devices_awaited_since(since),
    )


def devices_for(engine: str) -> list[DeviceView]:
    """All devices, with what speaks against their nodes, in an order that stays the same."""
    alive = set(Node.objects.alive().values_list("pk", flat=True))
    rows = Device.objects.select_related("node").order_by("node__name", "node_id", "kind", "index")
    return [_device(row, engine, row.node_id not in alive) for row in rows]


def _device(device: Device, engine: str, silent: bool) -> DeviceView:
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
        silent=silent,
        node_problem=node.engines.get(engine, _("The engine %(name)s is not installed here.") % {"name": engine}),
        suspect=device.suspect,
    )


def _holders() -> tuple[Holder, ...]:
    seen, claims = gateway_reports.read(), _claims()
    rows = Instance.objects.active().filter(node__in=Node.objects.alive()).select_related("model")
    return tuple(_holder(instance, claims[instance.pk], seen) for instance in rows)


def _claims() -> dict[str, dict[int, int]]:
    """Owner → device id → bytes that would be free without it: not what is promised to others already."""
    found: dict[str, dict[int, int]] = defaultdict(dict)
    for claim in Reservation.objects.filter(leaving=False):
        found[claim.owner][claim.device_id] = claim.bytes
    return found


def _holder(instance: Instance, holds: dict[int, int], seen: Traffic) -> Holder:
    ready = instance.state == State.READY
    resident = (timezone.now() - (instance.ready_at or instance.state_since)).total_seconds() if ready else None
    return Holder(
        instance_id=instance.pk,
        model_id=instance.model_id,
        model_name=instance.model.name,
        tenant_id=instance.tenant_id,
        holds=holds,
        priority=instance.model.priority,
        idle=_idle(instance, resident, seen) if ready else None,
        resident=resident,
        pinned=instance.model.pinned,
        awaited=any(beat.waiting.get(instance.model_id) for beat in seen.beats),
        going=instance.desired == Desired.STOPPED,
        scaled=instance.model.replicas > 1,
    )


def _idle(instance: Instance, resident: float, seen: Traffic) -> float | None:
    """Seconds since the last request to this instance ended, or since it was ready; None while one is in flight."""
    if any(beat.inflight.get(instance.pk) for beat in seen.beats):
        return None
    return min([resident, *(beat.idle[instance.pk] for beat in seen.beats if instance.pk in beat.idle)])
