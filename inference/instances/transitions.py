"""State changes of an instance: one conditional UPDATE each, with the update of its tasks and the event."""

from django.db import transaction
from django.db.models.functions import Now

from core.events import publish_on_commit
from core.times import utc_timestamp
from inference import memory_ledger
from inference.instances import operations, status_words
from inference.models import Instance, InstanceState, Use
from models_app.models import Model, Visibility

STATUS_EVENT = "model_status_update"
USE_BY_STATE = {
    InstanceState.STARTING: Use.LOADING,
    InstanceState.READY: Use.IN_USE,
    InstanceState.DRAINING: Use.IN_USE,
}


@transaction.atomic
def move(instance: Instance, state: InstanceState, *, fence: int, **fields) -> bool:
    """Write what the agent with this fence observed. False if the row has changed or the agent was replaced.

    Locks the model's row: if two replicas become ready at once, the second one sees both and finishes the task.
    """
    Model.objects.select_for_update(no_key=True, of=["self"]).filter(pk=instance.model_id).first()
    before = _status_labels(instance.model_id)
    rows = Instance.objects.filter(
        pk=instance.pk, state=instance.state, running_generation=instance.running_generation, node__fence=fence
    )
    if not rows.update(state=state, state_since=Now(), **fields):
        return False
    memory_ledger.record_use(instance.pk, USE_BY_STATE.get(state, Use.RESERVED))
    instance.refresh_from_db()
    operations.update_tasks(instance)
    if _status_labels(instance.model_id) != before:
        publish_status(instance)
    return True


def publish_status(instance: Instance) -> None:
    """Publish the state of its model."""
    model = instance.model
    foremost = model.instances.all().foremost().first()
    data, public = event_data(model.pk, foremost), model.visibility == Visibility.PUBLIC
    publish_on_commit(instance.tenant_id, STATUS_EVENT, data, key=model.pk, model=model.pk, public=public)


def event_data(model_id: str, instance: Instance | None) -> dict:
    """`instance` is the model's foremost one, None if it was never started."""
    labels = status_words.labels_for(instance)
    return {"model_id": model_id, "status": labels.status, "health": labels.health, "timestamp": utc_timestamp()}


def _status_labels(model_id: str) -> status_words.StatusLabels:
    return status_words.labels_for(Instance.objects.filter(model_id=model_id).foremost().first())
