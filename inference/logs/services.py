"""What users do with logs: read the last lines, count them, clear them."""

import logging
import time
from datetime import UTC, datetime

from django.utils.translation import gettext as _

from accounts.actor import Actor
from core import broker
from core.errors import ServiceUnavailable
from inference.logs import stream
from inference.logs.lines import StoredLogLine
from inference.models import Instance
from models_app.models import Model

logger = logging.getLogger(__name__)


def _unavailable() -> ServiceUnavailable:
    return ServiceUnavailable(_("The logs cannot be read at the moment. Try again shortly."), retry_after=5)


def latest(name: str, count: int) -> list[StoredLogLine]:
    """The newest lines of a training job, or of all instances of a model, oldest first. Raises ServiceUnavailable."""
    try:
        lines = [entry.line for entry in stream.latest(name, count)]
    except broker.UNAVAILABLE:
        raise _unavailable() from None
    return sorted(lines, key=lambda line: line.time)


def stats(actor: Actor) -> dict:
    """Counts over the actor's own models. Raises ServiceUnavailable."""
    own = Model.objects.usable_by(actor).visible_to(actor)
    ids = list(own.order_by().values_list("pk", flat=True))
    try:
        sizes = stream.sizes(ids)
    except broker.UNAVAILABLE:
        raise _unavailable() from None
    return {
        "total_models": len(ids),
        "total_log_entries": sum(sizes),
        "models_with_logs": sum(size > 0 for size in sizes),
    }


def clear(model: Model, keep_minutes: int) -> int:
    """Delete lines older than that, all for 0; the agent does not write them again. Returns how many."""
    before = time.time() - 60 * keep_minutes
    try:
        count = stream.clear(model.pk, before if keep_minutes else None)
    except broker.UNAVAILABLE:
        raise _unavailable() from None
    Instance.objects.filter(model=model).update(logs_since=datetime.fromtimestamp(before, UTC))
    return count


def forget(name: str) -> None:
    """Delete the lines of a deleted model or job. If Valkey is unavailable, they expire later."""
    try:
        stream.forget(name)
    except broker.UNAVAILABLE as error:
        logger.warning("the logs of %s stay for now: %s", name, type(error).__name__)
