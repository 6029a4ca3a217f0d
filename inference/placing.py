"""From a wish for an instance to a row with its memory claimed: the placement's decision, made true in the ledger."""

from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from accounts import configuration
from core.errors import EngineUnavailable, InsufficientResources
from inference import ledger, placement, transitions
from inference.engines import registry
from inference.engines.base import Estimate
from inference.models import NODE_SILENCE, Device, DeviceKind, Instance, Node
from models_app import artefacts
from models_app.models import Model

PLACEMENT_TRIES = 3


def place(model: Model, timeout: int | None, on_demand: bool, replica: int = 0) -> Instance:
    """Choose devices for one more instance of `model` and claim them, within the caller's transaction.

    Raises InsufficientResources, EngineUnavailable or InvalidRequest (the files).
    """
    adapter = registry.get(model.framework)
    artefact = artefacts.check_startable(model)
    _refuse_above_limit()
    estimates = {kind.value: adapter.estimate(model, artefact, kind.value) for kind in DeviceKind}
    request = placement.PlacementRequest(estimates, model.config.get("tensor_parallel_size", 1))
    for _try in range(PLACEMENT_TRIES):
        decision = placement.place(request, device_views(model.framework))
        if not decision.placed:
            raise _no_place(decision)
        try:
            return _create(model, decision, timeout, on_demand, replica)
        except ledger.NoRoom:
            continue
    raise _no_place(decision)


@transaction.atomic
def _create(model: Model, decision: placement.Decision, timeout: int | None, on_demand: bool, replica: int) -> Instance:
    limit = configuration.current().default_model_timeout
    instance = Instance.objects.create(
        tenant_id=model.tenant_id,
        model=model,
        replica=replica,
        node_id=decision.devices[0].node_id,
        served_name=model.name,
        on_demand=on_demand,
        start_timeout=timeout or limit,
        placement=_record(decision),
    )
    ledger.claim(instance, [device.id for device in decision.devices], decision.bytes_per_device)
    transitions.announce(instance)
    return instance


def _record(decision: placement.Decision) -> dict:
    """What the agent and a curious operator need of a decision."""
    estimate: Estimate = decision.estimate
    return {
        "device_kind": decision.devices[0].kind,
        "device_indexes": [device.index for device in decision.devices],
        "weights": estimate.weights,
        "overhead": estimate.overhead,
        "kv_cache": estimate.kv_cache,
        "trace": decision.trace,
    }


def _refuse_above_limit() -> None:
    limit = configuration.current().max_concurrent_models
    if Instance.objects.active().count() >= limit:
        raise InsufficientResources(
            _("%(limit)d models run already, which is the limit (max_concurrent_models).") % {"limit": limit},
            retry_after=30,
        )


def _no_place(decision: placement.Decision):
    """An engine that is missing everywhere is another trouble than a lack of memory."""
    problems = [line for line in decision.trace if " GiB needed" not in line]
    if problems and len(problems) == len(decision.trace):
        return EngineUnavailable(
            problems[-1].split(": ", 1)[-1], details={"candidates": decision.trace}, retry_after=15
        )
    return InsufficientResources(details={"candidates": decision.trace}, retry_after=30)


def device_views(engine: str) -> list[placement.DeviceView]:
    """All devices with what speaks against their node, the emptiest node first."""
    devices = Device.objects.select_related("node").order_by("reserved_bytes", "id")
    return [
        placement.DeviceView(
            device.pk,
            device.node_id,
            device.node.name,
            device.kind,
            device.index,
            device.usable_bytes,
            device.reserved_bytes,
            _problem(device.node, engine),
            device.suspect,
        )
        for device in devices
    ]


def _problem(node: Node, engine: str) -> str:
    if node.heartbeat_at is None or timezone.now() - node.heartbeat_at > NODE_SILENCE:
        return _("The worker on %(node)s does not answer.") % {"node": node.name}
    missing = node.engines.get(engine, _("The engine %(name)s is not installed here.") % {"name": engine})
    return missing or ""
