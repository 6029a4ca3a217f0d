"""The actions on models that run: start, stop, restart, scale. They write the desired state; agents carry it out."""

from collections.abc import Callable

from django.db import transaction
from django.db.models import F
from django.utils import timezone
from django.utils.translation import gettext as _

from accounts.actor import Actor
from core.errors import ModelNotFound, ModelNotRunning, PlatformError
from inference.crashes import advice
from inference.instances import operations
from inference.models import Instance, InstanceState, StopReason, Task, TaskKind
from inference.serving import replicas
from models_app import services as catalogue
from models_app.models import Model, ModelQuerySet


def start(model: Model, *, force: bool = False, timeout: int | None = None, on_demand: bool = False) -> Task:
    """Start the model's missing replicas. Those that run or start already stay as they are.

    `force` starts it even if it failed a moment ago. If not even one replica can be placed, raises
    InsufficientResources, EngineUnavailable, ModelNotRunning (failed a moment ago, retry later) or InvalidRequest
    (bad model files).
    """
    with transaction.atomic():
        model = catalogue.lock(model)
        if not force and not model.instances.active().exists():
            _refuse_right_after_failure(model, on_demand)
        if not on_demand:
            model.instances.wanted().update(on_demand=False)
        result = replicas.scale_up(model, timeout=timeout, on_demand=on_demand)
        if result.instances:
            return operations.create_task(TaskKind.START, model, result.runs, result.warning(model))
    raise result.refusal  # after the commit, which keeps the refused decision for /explain


def start_on_demand(model_id: str) -> Task:
    """Start a stopped model for its first request. Concurrent callers in all processes get the same instances."""
    model = Model.objects.filter(pk=model_id).first()
    if model is None:
        raise ModelNotFound(details={"model_id": model_id})
    return start(model, on_demand=True)


@transaction.atomic
def stop(model: Model, *, force: bool = False, timeout: int | None = None) -> Task:
    """Stop the model's instances, after their requests in flight unless `force`."""
    model = catalogue.lock(model)
    active = model.instances.active()
    runs = dict(active.values_list("pk", "running_generation"))
    active.request_stop(timeout=replicas.STOP_TIMEOUT if timeout is None else timeout, force=force)
    return operations.create_task(TaskKind.STOP, model, runs)


def restart(model: Model, *, force: bool = False, timeout: int | None = None) -> Task:
    """Restart the replicas one after the other; a stopped model is started."""
    fields = {"force_stop": force, "on_demand": False} | ({"start_timeout": timeout} if timeout else {})
    with transaction.atomic():
        model = catalogue.lock(model)
        running = model.instances.wanted()
        runs = {pk: generation + 1 for pk, generation in running.values_list("pk", "generation")}
        running.update(**fields)
        result = replicas.scale_up(model, timeout=timeout)
        if result.instances:
            return operations.create_task(TaskKind.RESTART, model, result.runs | runs, result.warning(model))
    raise result.refusal


def scale(model: Model) -> list[str]:
    """Bring a running model to its new number of replicas; a stopped one stays as it is. Returns warnings."""
    model = catalogue.lock(model)
    running = model.instances.wanted().count()
    if running == 0 or running == model.replicas:
        return []
    if running > model.replicas:
        replicas.scale_down(model)
        return []
    on_demand = not model.instances.wanted().filter(on_demand=False).exists()
    warning = replicas.scale_up(model, on_demand=on_demand).warning(model)
    return [warning] if warning else []


@transaction.atomic
def unload(model: Model) -> bool:
    """Stop an idle model to free its memory, all replicas at once: a single one would be started again.

    False if a start or restart of it was requested just now.
    """
    wanted = catalogue.lock(model).instances.wanted()
    if wanted.exclude(state=InstanceState.READY, generation=F("running_generation")).exists():
        return False
    wanted.request_stop(timeout=replicas.STOP_TIMEOUT, reason=StopReason.IDLE)
    return True


def restart_autostart(actor: Actor) -> tuple[list[Model], dict[str, str]]:
    """Restart or start the models that start with the worker. Returns the models, and name → why it failed."""
    return _run_on_each(_models_run_by(actor).filter(auto_start=True), restart)


def stop_all(actor: Actor, **options) -> tuple[list[Model], dict[str, str]]:
    """Stop all running models of the actor's tenant; of all tenants for an operator without a tenant."""
    running = Instance.objects.active().values("model_id")
    return _run_on_each(_models_run_by(actor).filter(pk__in=running), lambda model: stop(model, **options))


def _models_run_by(actor: Actor) -> ModelQuerySet:
    """The tenant's own models, limited to those of the key; all models for an operator without a tenant."""
    return Model.objects.usable_by(actor).visible_to(actor)


def _run_on_each(models: ModelQuerySet, action: Callable[[Model], Task]) -> tuple[list[Model], dict[str, str]]:
    done, failed = [], {}
    for model in models.order_by("-priority", "created_at"):
        try:
            action(model)
            done.append(model)
        except ModelNotFound:
            continue  # deleted meanwhile
        except PlatformError as error:
            failed[model.name] = str(error.message)
    return done, failed


def _refuse_right_after_failure(model: Model, on_demand: bool) -> None:
    """Requests must not start a broken model again and again; a person may."""
    last = model.instances.filter(state=InstanceState.FAILED).order_by("-state_since").first()
    if not on_demand or last is None or last.retry_at is None or last.retry_at <= timezone.now():
        return
    wait = max(1, int((last.retry_at - timezone.now()).total_seconds()))
    raise ModelNotRunning(
        _("The model failed to start: %(reason)s") % {"reason": advice.failure_message(last)},
        retry_after=wait,
        details={"state": InstanceState.FAILED, "failure_reason": last.failure_reason},
    )
