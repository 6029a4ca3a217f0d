"""Resolves a model reference to its id. The catalogue, an app above this one, registers the resolver at startup."""

from collections.abc import Callable

from accounts.actor import Actor

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
