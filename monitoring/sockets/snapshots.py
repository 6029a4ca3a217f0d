"""Reads the latest states, for sockets that subscribe or may have missed an event."""

from collections.abc import Iterable
from datetime import timedelta

from django.db.models.functions import Now

from accounts.actor import Actor
from inference.instances.transitions import STATUS_EVENT, event_data
from inference.serving.runtime import foremost_instances
from models_app.models import Model
from monitoring.figures import latest
from training.jobs import transitions as training
from training.models import TrainingJob

RECENTLY_ENDED = timedelta(hours=1)


def read_states(actor: Actor, events: Iterable[str]) -> list[dict]:
    """One message for each object that these events describe and that `actor` may see."""
    return [
        {"type": event, "data": data}
        for event in events
        if event in STATE_READERS
        for data in STATE_READERS[event](actor)
    ]


def _model_states(actor: Actor) -> list[dict]:
    """Includes models that never ran."""
    models = list(Model.objects.usable_by(actor).order_by("pk"))
    foremost = foremost_instances(models)
    return [event_data(model.pk, foremost.get(model.pk)) for model in models]


def _training_states(actor: Actor) -> list[dict]:
    """Jobs that have not ended, or ended recently."""
    jobs = TrainingJob.objects.visible_to(actor)
    recently_ended = jobs.filter(finished_at__gt=Now() - RECENTLY_ENDED)
    return [training.event_data(job) for job in (jobs.live() | recently_ended).order_by("pk")]


STATE_READERS = {STATUS_EVENT: _model_states, training.EVENT: _training_states} | latest.STATE_READERS
