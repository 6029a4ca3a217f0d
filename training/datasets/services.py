"""User actions on datasets: add, delete, preview."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

from django.conf import settings
from django.db import transaction
from django.db.models import Max
from django.utils.translation import gettext as _

from accounts import audit
from accounts.actor import Actor
from accounts.models import Tenant
from core.errors import Conflict, InvalidRequest, TooLarge
from core.uploads import Draft
from models_app import services as catalogue
from training import base_models
from training.datasets import descriptions, row_files, rows, split, storage
from training.datasets.row_files import FileKind, RawRow
from training.models import Dataset, Format
from training.trainer.conversation import Lesson


def add_dataset(actor: Actor, draft: Draft, *, name: str, base_model: str = "", request=None) -> Dataset:
    """Adds a version of the tenant's dataset `name`, if every row is valid. Raises InvalidRequest, ModelNotFound.

    Other kinds of files than JSON lines are kept as JSON lines with the same fields.
    """
    context = base_models.check(catalogue.find(actor, base_model)).context if base_model else None
    with ExitStack() as stack:
        kept = _unpacked(draft, stack)
        file = stack.enter_context(kept.path.open("rb"))
        kind = row_files.detect_kind(file, str(draft.name))
        raw_rows = row_files.read_rows(file, kind)
        if kind != FileKind.LINES:
            kept = stack.enter_context(_new_draft(name))
            raw_rows = _copy_rows(raw_rows, kept)
        found = rows.survey(raw_rows, context)
        return _save_dataset(actor, kept, name, found, _require_valid(found, kind), kind, request)


def _unpacked(draft: Draft, stack: ExitStack) -> Draft:
    """The same draft, unless it is packed with gzip. Raises InvalidRequest, TooLarge."""
    with draft.path.open("rb") as file:
        if file.read(len(row_files.GZIP)) != row_files.GZIP:
            return draft
        file.seek(0)
        unpacked = stack.enter_context(_new_draft(str(draft.name)))
        for piece in row_files.unpack(file):
            _append(unpacked, piece)
    return unpacked


def _append(target: Draft, content: bytes) -> None:
    """Raises TooLarge: a file may grow when it is unpacked, and JSON lines repeat the names of columns."""
    target.append(content)
    if target.size > settings.DATASET_MAX_BYTES:
        most = settings.DATASET_MAX_BYTES
        raise TooLarge(_("Unpacked and as JSON lines, the file is larger than %(most)d bytes.") % {"most": most})


@contextmanager
def _new_draft(name: str) -> Iterator[Draft]:
    """Removed at the end unless it was moved."""
    draft = Draft(name)
    try:
        yield draft
    finally:
        draft.discard()


def _copy_rows(raw_rows: Iterable[RawRow], target: Draft) -> Iterator[RawRow]:
    for row in raw_rows:
        if row.content:
            _append(target, row.content + b"\n")
        yield row


def acting_tenant(actor: Actor) -> Tenant:
    """Raises InvalidRequest for an operator who acts for no tenant."""
    if actor.tenant is None:
        raise InvalidRequest(_("Name a tenant: header Serai-Tenant."))
    return actor.tenant


def _require_valid(found: rows.Survey, kind: FileKind) -> Format:
    """The format of all its rows. Raises InvalidRequest, which says first as what the file was read."""
    if found.wrong:
        place = "row" if kind == FileKind.JSON_LIST else "line"
        details = {f"{place} {number}": problem for number, problem in found.errors.items()}
        problem = _("Wrong rows: %(count)d. Nothing was kept.") % {"count": found.wrong}
        raise InvalidRequest(f"{descriptions.describe(kind, found.shape, found.answer)} {problem}", details=details)
    if found.format is None:
        raise InvalidRequest(_("The file holds no rows."), param="file")
    if found.untaught == found.rows:
        raise InvalidRequest(_("All rows have the weight 0: nothing would be learnt."), param="file")
    return found.format


@transaction.atomic
def _save_dataset(
    actor: Actor, draft: Draft, name: str, found: rows.Survey, form: Format, kind: FileKind, request
) -> Dataset:
    """The file moves last: an earlier failure leaves nothing, and no row is visible without its file."""
    tenant = Tenant.objects.select_for_update().get(pk=acting_tenant(actor).pk)  # one version number at a time
    newest = Dataset.objects.of(tenant).filter(name=name).aggregate(newest=Max("version"))["newest"]
    dataset = Dataset.objects.create(
        tenant=tenant, name=name, version=(newest or 0) + 1, format=form, rows=found.rows,
        characters=found.characters, size_bytes=draft.size, sha256=draft.sha256, created_by=actor.user,
        origin={
            "kind": kind.value, "shape": found.shape, "answer": found.answer, "untaught_rows": found.untaught,
            "ignored_fields": dict(sorted(found.ignored.items())),
        },
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
            {"line": row.line, "held_out": number in held_out, "messages": _preview_messages(row.lesson)}
            for number, row in enumerate(rows.first_rows(file, count))
        ]


def _preview_messages(lesson: Lesson) -> list[dict]:
    return [message | {"taught": number in lesson.taught} for number, message in enumerate(lesson.messages)]
