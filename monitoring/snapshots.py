"""Latest states, for sockets that begin to listen and for those that may have missed an event."""

from collections.abc import Iterable

from accounts.actor import Actor
from inference.lifecycle import foremost_instances
from inference.transitions import EVENT, event_data
from models_app.models import Model
from monitoring import latest


def read(actor: Actor, events: Iterable[str]) -> list[dict]:
    """Messages with the state of everything that these events are about and that `actor` sees."""
    return [{"type": event, "data": data} for event in events if event in READERS for data in READERS[event](actor)]


def _model_states(actor: Actor) -> list[dict]:
    """Models that never ran too."""
    models = list(Model.objects.usable_by(actor).order_by("pk"))
    foremost = foremost_instances(models)
    return [event_data(model.pk, foremost.get(model.pk)) for model in models]


READERS = {EVENT: _model_states} | latest.READERS
