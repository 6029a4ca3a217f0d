"""Starts the models that start with the worker: those with `auto_start` and pinned ones, by priority."""

import logging
import time

from django.db.models import Q

from core.errors import EngineUnavailable, InsufficientResources, PlatformError
from inference.serving import services
from models_app.models import Model

logger = logging.getLogger(__name__)

START_RETRY_TIMEOUT = 3600.0  # seconds after a boot; until then a start waits for room or for the engine's installation


class Autostart:
    """The starts of one boot. Those without room or engine are retried for a while; other failures are not."""

    def __init__(self) -> None:
        wanted = Model.objects.filter(Q(auto_start=True) | Q(pinned=True)).order_by("-priority", "created_at")
        self._pending = list(wanted.values_list("pk", flat=True))
        self._deadline = time.monotonic() + START_RETRY_TIMEOUT

    def work(self) -> None:
        if time.monotonic() > self._deadline:
            self._pending = []
        self._pending = [pk for pk in self._pending if not self._is_done(pk)]

    def _is_done(self, pk: str) -> bool:
        model = Model.objects.filter(pk=pk).first()
        if model is None or model.instances.active().exists():
            return True
        try:
            services.start(model)
        except (EngineUnavailable, InsufficientResources) as error:
            logger.debug("autostart of %s: %s", model.name, error.message)
            return False
        except PlatformError as error:
            logger.warning("autostart of %s: %s", model.name, error.message)
        return True
