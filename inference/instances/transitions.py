"""State changes of an instance: one conditional UPDATE each, with the update of its tasks and the event."""

from django.db import transaction
from django.db.models.functions import Now

from core.errors import now_z
from core.events import publish_on_commit
from inference import memory_ledger
from inference.instances import operations, status_words
from inference.models import Instance, State, Use
from models_app.models import Model, Visibility

EVENT = "model_status_update"
USES = {State.STARTING: Use.FILLING, State.READY: Use.HELD, State.DRAINING: Use.HELD}


@transaction.atomic
def move(instance: Instance, state: State, *, fence: int, **fields) -> bool:
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
    memory_ledger.note(instance.pk, USES.get(state, Use.PROMISED))
    instance.refresh_from_db()
    operations.follow(instance)
    if _status_labels(instance.model_id) != before:
        announce(instance)
    return True


def announce(instance: Instance) -> None:
    """Publish the state of its model."""
    model = instance.model
    foremost = model.instances.all().foremost().first()
    data, public = event_data(model.pk, foremost), model.visibility == Visibility.PUBLIC
    publish_on_commit(instance.tenant_id, EVENT, data, key=model.pk, model=model.pk, public=public)


def event_data(model_id: str, instance: Instance | None) -> dict:
    """`instance` is the model's foremost one, None if it was never started."""
    labels = status_words.word(instance)
    return {"model_id": model_id, "status": labels.status, "health": labels.health, "timestamp": now_z()}


def _status_labels(model_id: str) -> status_words.Word:
    return status_words.word(Instance.objects.filter(model_id=model_id).foremost().first())
