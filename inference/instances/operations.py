"""Progress of start, stop and restart tasks: computed from their instances each time one of them changes state."""

from collections.abc import Iterable

from django.utils import timezone

from inference.models import ACTIVE_STATES, Desired, Instance, InstanceState, Task, TaskKind, TaskStatus
from models_app.models import Model

STOPPED_EARLY = "The model was stopped before it was ready."


def create_task(kind: TaskKind, model: Model, targets: dict[str, int], warning: str = "") -> Task:
    """Create a task for these instances and their runs; if there is nothing to wait for, it is finished at once."""
    task = Task.objects.create(tenant_id=model.tenant_id, kind=kind, model=model, targets=targets, warning=warning)
    _update(task)
    return task


def update_tasks(instance: Instance) -> None:
    """`instance` has changed state: update the tasks that wait for it, and continue rolling restarts."""
    for task in Task.objects.filter(
        model_id=instance.model_id, status=TaskStatus.RUNNING, targets__has_key=instance.pk
    ):
        _update(task)


def _update(task: Task) -> None:
    instances = list(Instance.objects.filter(pk__in=task.targets).order_by("replica"))
    status, error = task_outcome(task, instances)
    if status != TaskStatus.RUNNING:
        task.status, task.error, task.finished_at = status, error, timezone.now()
        task.save(update_fields=["status", "error", "finished_at"])
    elif task.kind == TaskKind.RESTART:
        for instance in next_restarts(instances, task.targets):
            instance.request_change(generation=task.targets[instance.pk])


def task_outcome(task: Task, instances: Iterable[Instance]) -> tuple[TaskStatus, str]:
    """Status and error of the task. A start or restart is done when all runs that were not stopped since are ready."""
    if task.kind == TaskKind.STOP:
        done = all(_ended(instance, task.targets[instance.pk]) for instance in instances)
        return (TaskStatus.SUCCEEDED if done else TaskStatus.RUNNING), ""
    for instance in instances:
        if instance.state == InstanceState.FAILED:
            return TaskStatus.FAILED, instance.failure_reason
    active = [instance for instance in instances if instance.state in ACTIVE_STATES]
    if not active:
        return TaskStatus.FAILED, STOPPED_EARLY
    done = all(_is_ready(instance, task.targets[instance.pk]) for instance in active)
    return (TaskStatus.SUCCEEDED if done else TaskStatus.RUNNING), ""


def next_restarts(instances: Iterable[Instance], targets: dict[str, int]) -> list[Instance]:
    """The instances to restart now, so that only one ready replica is down at a time.

    Replicas that are not ready do not wait for each other.
    """
    active = [instance for instance in instances if instance.state in ACTIVE_STATES]
    wanted = [instance for instance in active if instance.desired == Desired.RUNNING]
    due = [instance for instance in wanted if instance.generation < targets[instance.pk]]
    if not_ready := [instance for instance in due if instance.state != InstanceState.READY]:
        return not_ready
    requested = [instance for instance in wanted if instance not in due]
    restarting = [instance for instance in requested if not _is_ready(instance, targets[instance.pk])]
    return [] if restarting else due[:1]


def _is_ready(instance: Instance, generation: int) -> bool:
    return instance.state == InstanceState.READY and instance.running_generation >= generation


def _ended(instance: Instance, generation: int) -> bool:
    """Whether the run that was stopped has ended; a newer run may have started since."""
    return instance.state not in ACTIVE_STATES or instance.running_generation > generation
