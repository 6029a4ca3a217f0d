"""What the catalogue needs from the app that runs models. That app is above the catalogue and registers itself here."""

from collections.abc import Callable
from typing import Protocol

from django.db.models import QuerySet

from accounts.actor import Actor
from models_app.models import Model


class ModelRuntime(Protocol):
    def statuses(self, models: list[Model]) -> dict[str, dict]:
        """Model id → status, health, replicas, resource_usage and performance_stats in the terms of the service API."""

    def with_status(self, queryset: QuerySet, status: str) -> QuerySet:
        """Only the models with this status."""

    def is_active(self, model: Model) -> bool:
        """Whether any instance of it runs, starts or stops."""

    def scale(self, model: Model) -> list[str]:
        """Start or stop replicas of a running model as it wants, in the caller's transaction. Returns warnings."""

    def estimate(self, model: Model, actor: Actor) -> dict | None:
        """The memory that a start needs and whether it would fit; None while that is unknown."""

    def start_warnings(self, model: Model) -> list[str]:
        """Warnings of what prevents a start. Raises InvalidRequest for requirements that no machine can meet."""

    def end(self, model: Model) -> None:
        """Stop it now and return when no instance runs. Raises Conflict if that takes too long."""

    def require_adapters(self, model: Model, rank: int) -> None:
        """Raises Conflict if the model, as it runs or would start, accepts no adapter of this rank."""

    def adapters_loaded(self, version_ids: list[str]) -> dict[str, list[dict]]:
        """Version id → one report per running replica that knows it: `state` and, if refused, `reason`."""

    def adapters_in_use(self, version_ids: list[str]) -> bool:
        """Whether requests for one of them are in flight or queued."""

    def forget(self, model_id: str) -> None:
        """Delete what is stored outside the database for a deleted model."""


_runtime: ModelRuntime | None = None


def register_runtime(runtime: ModelRuntime) -> None:
    global _runtime
    _runtime = runtime


def get_runtime() -> ModelRuntime:
    if _runtime is None:
        raise RuntimeError("No app that runs models has registered itself.")
    return _runtime


DependencyCheck = Callable[[Model], str]  # the reason why a model must stay; empty if there is none
_dependencies: list[DependencyCheck] = []


def register_dependency(check: DependencyCheck) -> None:
    """For apps whose work would break if a model were deleted."""
    _dependencies.append(check)


def dependency_reason(model: Model) -> str:
    return next(filter(None, (check(model) for check in _dependencies)), "")
