"""What users ask of instances: start, stop, restart. Rows say what should be; agents make it so."""

from datetime import timedelta

from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from accounts import configuration
from core.errors import EngineUnavailable, InsufficientResources, ModelNotRunning
from inference import ledger, placement, transitions
from inference.engines import registry
from inference.engines.base import Estimate
from inference.models import Desired, Device, DeviceKind, Instance, Node, State, Task, TaskKind, TaskStatus
from models_app import artefacts
from models_app.models import Model

NODE_SILENCE = timedelta(seconds=20)
PLACEMENT_TRIES = 3


@transaction.atomic
def start(model: Model, *, force: bool = False, timeout: int | None = None, on_demand: bool = False) -> Task:
    """Place an instance of `model` and ask for it. What runs or starts already is left as it is.

    `force` replaces one that failed a moment ago. Raises InsufficientResources, EngineUnavailable,
    ModelNotRunning (failed a moment ago, to be tried again later) or InvalidRequest (the files).
    """
    model = Model.objects.select_for_update(of=["self"]).get(pk=model.pk)
    current = model.instances.active().first()
    if current:
        return _continue(current, on_demand)
    if not force:
        _refuse_right_after_failure(model, on_demand)
    instance = _place(model, timeout, on_demand)
    return _task(TaskKind.START, model, instance)


def start_on_demand(model_id: str) -> Task:
    """The first request for a stopped model; racing callers in all processes get the same instance."""
    return start(Model.objects.get(pk=model_id), on_demand=True)


@transaction.atomic
def stop(model: Model, *, force: bool = False, timeout: int | None = None) -> Task:
    """Ask for the end of the model's instance, after its requests in flight unless `force`."""
    model = Model.objects.select_for_update(of=["self"]).get(pk=model.pk)
    current = model.instances.active().first()
    if current is None:
        return _task(TaskKind.STOP, model, None, status=TaskStatus.SUCCEEDED)
    current.ask(desired=Desired.STOPPED, force_stop=force, stop_timeout=60 if timeout is None else timeout)
    return _task(TaskKind.STOP, model, current)


@transaction.atomic
def restart(model: Model, *, force: bool = False, timeout: int | None = None) -> Task:
    """Ask for a new run of the model's instance; a stopped model is started."""
    model = Model.objects.select_for_update(of=["self"]).get(pk=model.pk)
    current = model.instances.active().first()
    if current is None:
        instance = _place(model, timeout, on_demand=False)
    else:
        instance = current
        instance.ask(
            desired=Desired.RUNNING,
            generation=instance.generation + 1,
            force_stop=force,
            on_demand=False,
            start_timeout=timeout or instance.start_timeout,
        )
    return _task(TaskKind.RESTART, model, instance)


def _continue(current: Instance, on_demand: bool) -> Task:
    """Starting again what is active: a stop that is under way is followed by a new run."""
    if current.desired == Desired.STOPPED:
        current.ask(desired=Desired.RUNNING, generation=current.running_generation + 1, on_demand=on_demand)
    elif current.on_demand and not on_demand:
        current.ask(on_demand=False)
    done = current.state == State.READY and current.desired == Desired.RUNNING
    status = TaskStatus.SUCCEEDED if done else TaskStatus.RUNNING
    return _task(TaskKind.START, current.model, current, status=status)


def _task(kind: TaskKind, model: Model, instance: Instance | None, status: TaskStatus = TaskStatus.RUNNING) -> Task:
    return Task.objects.create(
        tenant_id=model.tenant_id,
        kind=kind,
        model=model,
        instance=instance,
        status=status,
        generation=instance.generation if instance else 0,
        finished_at=None if status == TaskStatus.RUNNING else timezone.now(),
    )


def _refuse_right_after_failure(model: Model, on_demand: bool) -> None:
    """Requests must not start a broken model over and over; a person may, after looking."""
    last = model.instances.filter(state=State.FAILED).order_by("-state_since").first()
    if not on_demand or last is None or last.retry_at is None or last.retry_at <= timezone.now():
        return
    wait = max(1, int((last.retry_at - timezone.now()).total_seconds()))
    raise ModelNotRunning(
        _("The model failed to start: %(reason)s") % {"reason": last.failure_reason},
        retry_after=wait,
        details={"state": State.FAILED, "failure_reason": last.failure_reason},
    )


def _place(model: Model, timeout: int | None, on_demand: bool) -> Instance:
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
            return _create(model, decision, timeout, on_demand)
        except ledger.NoRoom:
            continue
    raise _no_place(decision)


@transaction.atomic
def _create(model: Model, decision: placement.Decision, timeout: int | None, on_demand: bool) -> Instance:
    limit = configuration.current().default_model_timeout
    instance = Instance.objects.create(
        tenant_id=model.tenant_id,
        model=model,
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
