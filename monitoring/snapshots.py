"""Latest states, for sockets that begin to listen and for those that may have missed an event."""

from accounts.actor import Actor
from inference.lifecycle import newest_instances
from inference.transitions import event_data
from models_app.models import Model


def model_states(actor: Actor) -> list[dict]:
    """The state of each model that the actor sees, those that never ran too."""
    models = list(Model.objects.usable_by(actor).order_by("pk"))
    newest = newest_instances(models)
    return [event_data(model.pk, newest.get(model.pk)) for model in models]
