"""Moves of an instance between states: one conditional UPDATE each, with the event and the tasks that hang on it."""

from django.db import transaction
from django.utils import timezone

from core.errors import now_z
from core.events import publish_on_commit
from inference import status
from inference.models import Instance, State, Task, TaskKind, TaskStatus
from models_app.models import Visibility

EVENT = "model_status_update"


@transaction.atomic
def move(instance: Instance, state: State, *, fence: int, **fields) -> bool:
    """Write what the agent with this fence observed. False when the row has moved on or the agent is an old one."""
    rows = Instance.objects.filter(
        pk=instance.pk, state=instance.state, running_generation=instance.running_generation, node__fence=fence
    )
    if not rows.update(state=state, state_since=timezone.now(), **fields):
        return False
    instance.refresh_from_db()
    _settle_tasks(instance)
    announce(instance)
    return True


def announce(instance: Instance) -> None:
    model = instance.model
    data, public = event_data(model.pk, instance), model.visibility == Visibility.PUBLIC
    publish_on_commit(instance.tenant_id, EVENT, data, key=model.pk, public=public)


def event_data(model_id: str, instance: Instance | None) -> dict:
    """`instance` is the model's newest one, None if it was never started."""
    word = status.word(instance)
    return {"model_id": model_id, "status": word.status, "health": word.health, "timestamp": now_z()}


def _settle_tasks(instance: Instance) -> None:
    """A start or restart is done when its generation is ready, a stop when the tree is gone."""
    waiting = Task.objects.filter(instance=instance, status=TaskStatus.RUNNING)
    starts = waiting.filter(kind__in=[TaskKind.START, TaskKind.RESTART])
    if instance.state == State.READY:
        _finish(starts.filter(generation__lte=instance.running_generation), TaskStatus.SUCCEEDED)
    elif instance.state == State.FAILED:
        _finish(starts, TaskStatus.FAILED, instance.failure_reason)
        _finish(waiting.filter(kind=TaskKind.STOP), TaskStatus.SUCCEEDED)
    elif instance.state == State.STOPPED:
        _finish(waiting.filter(kind=TaskKind.STOP), TaskStatus.SUCCEEDED)
        _finish(starts, TaskStatus.FAILED, "The model was stopped before it was ready.")


def _finish(tasks, outcome: TaskStatus, error: str = "") -> None:
    tasks.update(status=outcome, error=error, finished_at=timezone.now())
