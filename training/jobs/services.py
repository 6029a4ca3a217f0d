"""User actions on training jobs, for every API: start, pause, resume, cancel, delete."""

from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial

from django.db import transaction
from django.db.models import Q
from django.utils.translation import gettext as _

from accounts import audit
from accounts.actor import Actor
from accounts.models import Tenant
from core.errors import Conflict, InvalidRequest, NotFound, RateLimited, TrainingJobConflict, TrainingJobNotFound
from inference.logs import services as logs
from models_app import model_runtime
from models_app import services as catalogue
from models_app.adapters import services as adapters
from models_app.models import Model
from training import base_models, paths
from training.datasets import row_files, rows, split, storage
from training.datasets.services import acting_tenant
from training.jobs import resources, row_counts, transitions
from training.jobs.recipe import Hyperparameters
from training.models import Dataset, TrainingJob

MAX_UNENDED_JOBS = 100  # jobs of one tenant that have not ended
DATASET, ADAPTER = "dataset", "adapter"
MAX_DEFAULT_NAME = 100  # characters of a generated adapter name


def start_training(
    actor: Actor, *, base_model: str, dataset: str, adapter: str = "", recipe: Hyperparameters, request=None
) -> tuple[TrainingJob, list[str]]:
    """Checks everything, then queues a new job. Returns it with warnings about its rows and about serving its adapter.

    `base_model` is a reference or a path, `dataset` an id, a name (its newest version) or a path; without `adapter` a
    name is made of both. Raises InvalidRequest, ModelNotFound, NotFound, ModelAlreadyExists (the adapter's name),
    InsufficientResources (no device could ever hold it), RateLimited.
    """
    tenant = acting_tenant(actor)
    limited = replace(actor, sees_all=False)  # its job must not use what an operator sees of other tenants
    model = base_models.find(limited, base_model)
    base = base_models.check(model)
    data = _find_dataset(limited, dataset)
    adapter = adapter or f"{model.name}-{data.name}".replace(" ", "-")[:MAX_DEFAULT_NAME]
    _check_adapter_name(tenant, adapter)
    _check_rows(data, base)
    training_rows = data.rows - split.held_out_count(data.rows)
    resolved = recipe.resolve_defaults(parameters=base.parameters, rows=training_rows, context=base.context)
    estimate = resources.estimate(base, resolved, data.size_bytes)
    resources.require_possible(estimate)
    counts, row_warnings = row_counts.count_before_start(data, model, resolved.max_seq_length)
    _require_any_row(counts, data)
    job = TrainingJob(
        tenant=tenant, base_model=model, base_name=model.name, dataset=data, dataset_name=data.name,
        dataset_version=data.version, adapter_name=adapter, recipe=asdict(resolved), estimate=estimate,
        row_counts=counts, created_by=actor.user, key=actor.key,
    )  # fmt: skip
    _save_job(actor, job, model, request)
    return job, [*row_warnings, *_warnings(model, resolved)]


def _find_dataset(actor: Actor, ref: str) -> Dataset:
    """Raises NotFound, also for one of another tenant; InvalidRequest for a path outside."""
    own = Dataset.objects.of(actor.tenant).select_related("tenant")
    name = paths.last_part(ref, DATASET)
    for condition in (Q(pk=ref), Q(name=name), Q(name=paths.without_suffix(name))):
        if found := own.filter(condition).order_by("-version").first():
            return found
    raise NotFound(_("There is no such data set."), param=DATASET)


def _check_adapter_name(tenant: Tenant, name: str) -> None:
    try:
        adapters.check_name(tenant, name)
    except InvalidRequest as error:
        raise InvalidRequest(next(iter(error.details.values()), error.message), param=ADAPTER) from None


def _check_rows(dataset: Dataset, base: base_models.BaseModelInfo) -> None:
    """Checks again, because the upload may not have named this model. Raises InvalidRequest with the lines."""
    with storage.open_dataset(dataset) as file:
        found = rows.survey(row_files.read_lines(file), base.context)
    if found.wrong:
        details = {f"line {line}": problem for line, problem in found.errors.items()}
        message = _("Rows of the data set that cannot be taught to this model: %(count)d.") % {"count": found.wrong}
        raise InvalidRequest(message, details=details)


def _require_any_row(counts: dict[str, int], dataset: Dataset) -> None:
    if counts and counts["left_out"] == dataset.rows:
        problem = _("No row has an answer within the first %(limit)d tokens.")
        raise InvalidRequest(problem % {"limit": counts["limit"]}, param="recipe.max_seq_length")


@transaction.atomic
def _save_job(actor: Actor, job: TrainingJob, model: Model, request) -> None:
    """Locks model and dataset, so that neither is deleted meanwhile. Raises ModelNotFound, NotFound, RateLimited."""
    catalogue.lock(model)
    if not Dataset.objects.select_for_update(no_key=True, of=["self"]).filter(pk=job.dataset_id).exists():
        raise NotFound(_("There is no such data set."), param=DATASET)
    if TrainingJob.objects.of(job.tenant).live().count() >= MAX_UNENDED_JOBS:
        problem = _("Your tenant has %(count)d training jobs that have not ended, which is as many as it may.")
        raise RateLimited(problem % {"count": MAX_UNENDED_JOBS}, retry_after=60)
    job.save()
    audit.record(actor, "training.start", job, request=request, base_model=job.base_name, dataset=job.dataset_id)
    transitions.announce(job)


def _warnings(model: Model, recipe: Hyperparameters) -> list[str]:
    """No errors: the base model's settings can still be changed before the adapter is published."""
    try:
        model_runtime.get_runtime().require_adapters(model, recipe.rank)
    except Conflict as conflict:
        return [str(conflict.message)]
    return []


# --- existing jobs


def find(actor: Actor, job_id: str) -> TrainingJob:
    """Raises TrainingJobNotFound, also for a job of another tenant."""
    jobs = TrainingJob.objects.visible_to(actor).select_related("tenant", "node", "created_by")
    found = jobs.filter(pk=job_id).first()
    if found is None:
        raise TrainingJobNotFound
    return found


def pause(actor: Actor, job: TrainingJob, request=None) -> TrainingJob:
    return _change_state(actor, job, transitions.pause, request)


def resume(actor: Actor, job: TrainingJob, request=None) -> TrainingJob:
    return _change_state(actor, job, transitions.resume, request)


def cancel(actor: Actor, job: TrainingJob, request=None) -> TrainingJob:
    return _change_state(actor, job, transitions.cancel, request)


@transaction.atomic
def _change_state(actor: Actor, job: TrainingJob, transition: Callable[[TrainingJob], bool], request) -> TrainingJob:
    """Raises TrainingJobConflict if the job's state does not allow it."""
    if not transition(job):
        job.refresh_from_db()
        raise TrainingJobConflict(_("The job is %(status)s.") % {"status": job.status})
    audit.record(actor, f"training.{transition.__name__}", job, request=request)
    return job


@transaction.atomic
def delete(actor: Actor, job: TrainingJob, request=None) -> None:
    """Removes an ended job except for its adapter. Raises TrainingJobConflict for one that has not ended."""
    if not TrainingJob.objects.select_for_update().ended().filter(pk=job.pk).exists():
        raise TrainingJobConflict(_("The job has not ended. Cancel it first."))
    audit.record(actor, "training.delete", job, request=request)
    folder = storage.folder_of(job)
    transaction.on_commit(partial(storage.remove_folder, folder))
    transaction.on_commit(partial(logs.forget, job.pk))
    job.delete()


def why_model_is_needed(model: Model) -> str:
    """Called by the catalogue before it deletes a model; empty if it may."""
    jobs = TrainingJob.objects.live().filter(base_model=model)
    if jobs.of(model.tenant).exists():
        return _("A training job needs this model. Cancel the job first.")
    return _("A training job of another tenant needs this model. An operator can cancel it.") if jobs.exists() else ""
