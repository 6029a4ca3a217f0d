"""What the catalogue asks of the app that runs models, which stands above it and registers itself here."""

from collections.abc import Callable
from typing import Protocol

from django.db.models import QuerySet

from accounts.actor import Actor
from models_app.models import Model


class Lifecycle(Protocol):
    def statuses(self, models: list[Model]) -> dict[str, dict]:
        """Model id → status, health, replicas, resource_usage and performance_stats in the service document's words."""

    def with_status(self, queryset: QuerySet, status: str) -> QuerySet:
        """Only the models with this status word."""

    def is_active(self, model: Model) -> bool:
        """Whether anything of it runs, starts or is being stopped."""

    def scale(self, model: Model) -> list[str]:
        """Bring a running model to the replicas that it wants now, in the caller's transaction. Returns warnings."""

    def estimate(self, model: Model, actor: Actor) -> dict | None:
        """What a start would take and whether it would find room; None while nobody can tell."""

    def doubts(self, model: Model) -> list[str]:
        """What will keep it from starting. Raises InvalidRequest for wishes that no machine could ever fulfil."""

    def end(self, model: Model) -> None:
        """Stop it at once and return when nothing of it runs. Raises Conflict if that takes too long."""

    def require_adapters(self, model: Model, rank: int) -> None:
        """Raises Conflict where the model, as it runs or would be started, takes no adapter of this rank."""

    def adapters_loaded(self, version_ids: list[str]) -> dict[str, list[dict]]:
        """Version id → a word from each running replica that knows of it: `state` and, if refused, `reason`."""

    def adapters_in_use(self, version_ids: list[str]) -> bool:
        """Whether requests for one of them are in flight or wait."""

    def forget(self, model_id: str) -> None:
        """The model is gone: so goes what is kept of it outside the database."""


_registered: list[Lifecycle] = []


def register(lifecycle: Lifecycle) -> None:
    _registered[:] = [lifecycle]


def get() -> Lifecycle:
    return _registered[0]


Need = Callable[[Model], str]  # why a model has to stay, empty where nothing needs it
_needs: list[Need] = []


def register_need(need: Need) -> None:
    """For apps whose work would break if a model were deleted."""
    _needs.append(need)


def needed_because(model: Model) -> str:
    return next(filter(None, (need(model) for need in _needs)), "")
