"""How a reference to a model becomes its id: the catalogue, an app above this one, registers the answer at start."""

from collections.abc import Callable

from accounts.actor import Actor

Resolver = Callable[[Actor, str], str | None]
_resolvers: list[Resolver] = []


def register_model_resolver(resolver: Resolver) -> None:
    """`resolver` gives None for what does not exist or what the actor may not use."""
    _resolvers[:] = [resolver]


def model_id(actor: Actor, ref: str) -> str | None:
    return _resolvers[0](actor, ref)
