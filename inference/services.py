"""What users ask of instances: start, stop, restart. Rows say what should be; agents make it so."""

from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from core.errors import ModelNotRunning
from inference import placing
from inference.models import Desired, Instance, State, Task, TaskKind, TaskStatus
from models_app.models import Model


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
    instance = placing.place(model, timeout, on_demand)
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
        instance = placing.place(model, timeout, on_demand=False)
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
