"""What starts with the worker: models that are marked so, and pinned ones, the most important first."""

import logging
import time

from django.db.models import Q

from core.errors import EngineUnavailable, InsufficientResources, PlatformError
from inference.serving import services
from models_app.models import Model

logger = logging.getLogger(__name__)

PATIENCE = 3600.0  # seconds that an engine's installation, or room, is waited for after a boot


class Autostart:
    """The starts of one boot. What cannot start yet is tried again for a while; what fails otherwise is not."""

    def __init__(self):
        wanted = Model.objects.filter(Q(auto_start=True) | Q(pinned=True)).order_by("-priority", "created_at")
        self._left = list(wanted.values_list("pk", flat=True))
        self._until = time.monotonic() + PATIENCE

    def work(self) -> None:
        if time.monotonic() > self._until:
            self._left = []
        self._left = [pk for pk in self._left if not self._is_settled(pk)]

    def _is_settled(self, pk: str) -> bool:
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
