"""What came of a start, stop or restart: told from the instances that it is about, each time one of them moves."""

from collections.abc import Iterable

from django.utils import timezone

from inference.models import ACTIVE_STATES, Desired, Instance, State, Task, TaskKind, TaskStatus
from models_app.models import Model

STOPPED_EARLY = "The model was stopped before it was ready."


def begin(kind: TaskKind, model: Model, targets: dict[str, int], warning: str = "") -> Task:
    """A task about these instances and their runs; one that has nothing left to wait for is finished at once."""
    task = Task.objects.create(tenant_id=model.tenant_id, kind=kind, model=model, targets=targets, warning=warning)
    _settle(task)
    return task


def follow(instance: Instance) -> None:
    """`instance` has moved: finish the tasks that waited for it, and take rolling restarts a step further."""
    for task in Task.objects.filter(
        model_id=instance.model_id, status=TaskStatus.RUNNING, targets__has_key=instance.pk
    ):
        _settle(task)


def _settle(task: Task) -> None:
    instances = list(Instance.objects.filter(pk__in=task.targets).order_by("replica"))
    status, error = outcome(task, instances)
    if status != TaskStatus.RUNNING:
        task.status, task.error, task.finished_at = status, error, timezone.now()
        task.save(update_fields=["status", "error", "finished_at"])
    elif task.kind == TaskKind.RESTART:
        for instance in next_restarts(instances, task.targets):
            instance.ask(generation=task.targets[instance.pk])


def outcome(task: Task, instances: Iterable[Instance]) -> tuple[TaskStatus, str]:
    """How the task stands. A start or restart is done when all its runs are ready that nobody has stopped meanwhile."""
    if task.kind == TaskKind.STOP:
        done = all(_ended(instance, task.targets[instance.pk]) for instance in instances)
        return (TaskStatus.SUCCEEDED if done else TaskStatus.RUNNING), ""
    for instance in instances:
        if instance.state == State.FAILED:
            return TaskStatus.FAILED, instance.failure_reason
    left = [instance for instance in instances if instance.state in ACTIVE_STATES]
    if not left:
        return TaskStatus.FAILED, STOPPED_EARLY
    done = all(_arrived(instance, task.targets[instance.pk]) for instance in left)
    return (TaskStatus.SUCCEEDED if done else TaskStatus.RUNNING), ""


def next_restarts(instances: Iterable[Instance], targets: dict[str, int]) -> list[Instance]:
    """Whose next run is to be asked for now, so that one replica is away at a time.

    Replicas that serve nobody yet need not wait for each other.
    """
    wanted = [each for each in instances if each.state in ACTIVE_STATES and each.desired == Desired.RUNNING]
    due = [each for each in wanted if each.generation < targets[each.pk]]
    if not_serving := [each for each in due if each.state != State.READY]:
        return not_serving
    away = [each for each in wanted if each not in due and not _arrived(each, targets[each.pk])]
    return [] if away else due[:1]


def _arrived(instance: Instance, generation: int) -> bool:
    return instance.state == State.READY and instance.running_generation >= generation


def _ended(instance: Instance, generation: int) -> bool:
    """The run that was to end has ended, whatever has been started since."""
    return instance.state not in ACTIVE_STATES or instance.running_generation > generation
