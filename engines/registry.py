"""Engines by name, from the dotted paths in settings.ENGINE_ADAPTERS."""

import logging
from functools import cache

from django.conf import settings
from django.utils.module_loading import import_string
from django.utils.translation import gettext as _

from core.errors import EngineUnavailable
from engines.base import Engine

logger = logging.getLogger(__name__)

OLD_PATHS = {
    "inference.engines.vllm.VllmAdapter": "engines.vllm.VllmEngine",
    "inference.engines.llamacpp.LlamaCppAdapter": "engines.llamacpp.LlamaCppEngine",
}  # of settings that are older than the move; they work for one release longer


@cache
def engines() -> dict[str, Engine]:
    built = [import_string(_current_path(path))() for path in settings.ENGINE_ADAPTERS]
    return {engine.name: engine for engine in built}


def get(name: str) -> Engine:
    """Raises EngineUnavailable for an engine that this installation does not have."""
    try:
        return engines()[name]
    except KeyError:
        raise EngineUnavailable(_("The engine %(name)s is not installed here.") % {"name": name}) from None


def _current_path(path: str) -> str:
    if path not in OLD_PATHS:
        return path
    logger.warning("SERAI_ENGINE_ADAPTERS names %s, which is now %s", path, OLD_PATHS[path])
    return OLD_PATHS[path]
