"""Engines by name, from the dotted paths in settings.ENGINE_ADAPTERS."""

from functools import cache

from django.conf import settings
from django.utils.module_loading import import_string
from django.utils.translation import gettext as _

from core.errors import EngineUnavailable
from engines.base import Engine


@cache
def engines() -> dict[str, Engine]:
    built = (import_string(path)() for path in settings.ENGINE_ADAPTERS)
    return {adapter.name: adapter for adapter in built}


def get(name: str) -> Engine:
    """Raises EngineUnavailable for an engine that this installation does not have."""
    try:
        return engines()[name]
    except KeyError:
        raise EngineUnavailable(_("The engine %(name)s is not installed here.") % {"name": name}) from None
