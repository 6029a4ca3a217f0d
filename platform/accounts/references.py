"""Resolves model references to their ids. The catalogue, an app above this one, registers the resolver at startup."""

from collections.abc import Callable

from django.utils.translation import gettext as _

from accounts.actor import Actor
from core.errors import InvalidRequest

Resolver = Callable[[Actor, str], str | None]
_resolver: Resolver | None = None


def register_model_resolver(resolver: Resolver) -> None:
    """`resolver` returns None for a model that does not exist or that the actor may not use."""
    global _resolver
    _resolver = resolver


def resolve_model_id(actor: Actor, ref: str) -> str | None:
    if _resolver is None:
        raise RuntimeError("No app has registered a resolver of model references.")
    return _resolver(actor, ref)


def resolve_allowed_models(actor: Actor, refs: list[str]) -> list[str]:
    """The ids of the models that a key is limited to. Raises InvalidRequest."""
    found = []
    for ref in refs:
        model_id = resolve_model_id(actor, ref)
        if model_id is None:
            raise InvalidRequest(details={"allowed_models": _("There is no model %(ref)s.") % {"ref": ref}})
        found.append(model_id)
    return found
