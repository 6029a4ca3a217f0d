"""The gateway uses vLLM's API; an engine with another API has its own operations, under the same names."""

from dataclasses import replace

from django.utils.text import format_lazy
from django.utils.translation import gettext_lazy as _

from core.errors import NotFound
from gateway.api import llamacpp
from gateway.api.operation import Operation

ENGINE_OPERATIONS: dict[str, dict[str, Operation]] = {"llama.cpp": llamacpp.OPERATIONS}


def engine_operation(operation: Operation, engine: str) -> Operation:
    """This engine's form of the operation. Raises NotFound if it has none."""
    if engine not in ENGINE_OPERATIONS:
        return operation
    try:
        return replace(ENGINE_OPERATIONS[engine][operation.name], present=operation.present)
    except KeyError:
        message = _("The engine of this model does not offer {route}.")
        raise NotFound(format_lazy(message, route=operation.engine_path)) from None
