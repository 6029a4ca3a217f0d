"""User actions on datasets: add, delete, preview."""

from django.db import transaction
from django.db.models import Max
from django.utils.translation import gettext as _

from accounts import audit
from accounts.actor import Actor
from accounts.models import Tenant
from core.errors import Conflict, InvalidRequest
from core.uploads import Draft
from models_app import services as catalogue
from training import base_models
from training.datasets import rows, split, storage
from training.models import Dataset, Format


def add_dataset(actor: Actor, draft: Draft, *, name: str, base_model: str = "", request=None) -> Dataset:
    """Adds a version of the tenant's dataset `name`, if every row is valid. Raises InvalidRequest, ModelNotFound."""
    context = base_models.check(catalogue.find(actor, base_model)).context if base_model else None
    with draft.path.open("rb") as file:
        found = rows.survey(file, context)
    return _save_dataset(actor, draft, name, found, _require_valid(found), request)


def acting_tenant(actor: Actor) -> Tenant:
    """Raises InvalidRequest for an operator who acts for no tenant."""
    if actor.tenant is None:
        raise InvalidRequest(_("Name a tenant: header Serai-Tenant."))
    return actor.tenant


def _require_valid(found: rows.Survey) -> Format:
    """The format of all its rows. Raises InvalidRequest."""
    if found.wrong:
        details = {f"line {line}": problem for line, problem in found.errors.items()}
        raise InvalidRequest(_("Wrong rows: %(count)d. Nothing was kept.") % {"count": found.wrong}, details=details)
    if found.format is None:
        raise InvalidRequest(_("The file holds no rows."), param="file")
    return found.format


@transaction.atomic
def _save_dataset(actor: Actor, draft: Draft, name: str, found: rows.Survey, form: Format, request) -> Dataset:
    """The file moves last: an earlier failure leaves nothing, and no row is visible without its file."""
    tenant = Tenant.objects.select_for_update().get(pk=acting_tenant(actor).pk)  # one version number at a time
    newest = Dataset.objects.of(tenant).filter(name=name).aggregate(newest=Max("version"))["newest"]
    dataset = Dataset.objects.create(
        tenant=tenant, name=name, version=(newest or 0) + 1, format=form, rows=found.rows,
        characters=found.characters, size_bytes=draft.size, sha256=draft.sha256, created_by=actor.user,
    )  # fmt: skip
    audit.record(actor, "dataset.create", dataset, request=request, name=name, version=dataset.version)
    draft.move_to(storage.path_of(dataset))
    return dataset


@transaction.atomic
def delete_dataset(actor: Actor, dataset: Dataset, request=None) -> None:
    """Raises Conflict while a job needs it."""
    Dataset.objects.select_for_update().filter(pk=dataset.pk).first()  # no job can start with it from here on
    if dataset.training_jobs.live().exists():
        raise Conflict(_("A training job needs this data set. Cancel the job first."))
    path = storage.path_of(dataset)
    audit.record(actor, "dataset.delete", dataset, request=request, name=dataset.name, version=dataset.version)
    dataset.delete()
    transaction.on_commit(lambda: path.unlink(missing_ok=True))


def preview(dataset: Dataset, count: int, seed: int) -> list[dict]:
    """The first rows, and which of them this seed would hold out. Raises NotFound."""
    held_out = split.held_out(dataset.rows, seed)
    with storage.open_dataset(dataset) as file:
        return [
            {"line": row.line, "held_out": number in held_out, "conversation": row.conversation}
            for number, row in enumerate(rows.first_rows(file, count))
        ]
