"""Operations on adapters: save after a training, publish, roll back, unpublish, delete."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from django.db import transaction
from django.db.models import Max
from django.utils import timezone
from django.utils.translation import gettext as _

from accounts import audit
from accounts.actor import Actor
from accounts.models import Tenant, User
from accounts.policy import Permission
from core import ids
from core.errors import Conflict, Forbidden, InvalidRequest, NotFound
from models_app import model_runtime
from models_app import services as catalogue
from models_app.adapters import files
from models_app.models import Adapter, AdapterVersion, Model


@dataclass(frozen=True)
class Origin:
    """The training that made a version: its job, its dataset, and who requested it."""

    job_id: str = ""
    dataset_id: str = ""
    dataset_name: str = ""
    dataset_version: int | None = None
    user: User | None = None
    key_id: str = ""


def check_name(tenant: Tenant, name: str) -> None:
    """Check before a training that its adapter may have this name. An existing adapter gets a new version.

    Raises InvalidRequest, ModelAlreadyExists if a model or an alias has the name.
    """
    own = Adapter.objects.of(tenant).filter(name=name).values_list("pk", flat=True).first()
    catalogue.require_free_name(tenant, name, except_id=own)


@transaction.atomic
def save_version(
    *, tenant: Tenant, base_model: Model, name: str, folder: Path, evaluation: dict | None = None, origin: Origin
) -> AdapterVersion:
    """Save the trained files in `folder` as a version of the adapter `name`. The files are moved last.

    A job makes one version: if the call is repeated after a lost transaction, it uses the files where they are now.
    Raises files.InvalidAdapter for files that no engine may load, OSError.
    """
    version_id = origin.job_id.replace("job-", "version-", 1) or ids.new_version_id()
    if saved := AdapterVersion.objects.of(tenant).filter(pk=version_id).first():
        return saved
    target = files.folder(tenant.slug, version_id)
    source = folder if folder.exists() else target
    facts = files.check(source)
    catalogue.lock_names(tenant.pk)
    adapter = _find_or_create_adapter(tenant, base_model, name, origin)
    newest = adapter.versions.aggregate(newest=Max("number"))["newest"]
    version = AdapterVersion.objects.create(
        pk=version_id, tenant=tenant, adapter=adapter, number=(newest or 0) + 1, rank=facts.rank,
        size_bytes=facts.size_bytes, sha256=facts.sha256, evaluation=evaluation, job_id=origin.job_id,
        dataset_id=origin.dataset_id, dataset_name=origin.dataset_name, dataset_version=origin.dataset_version,
        created_by=origin.user, key_id=origin.key_id,
    )  # fmt: skip
    files.move(source, target, base_model.name)
    return version


def _find_or_create_adapter(tenant: Tenant, base_model: Model, name: str, origin: Origin) -> Adapter:
    """The existing or a new adapter. If the name was taken during the training, a number is added to keep its work."""
    for number in range(1, 1000):
        candidate = name if number == 1 else f"{name[: catalogue.MAX_NAME_LENGTH - 4]}-{number}"
        found = Adapter.objects.of(tenant).filter(name=candidate).first()
        if found and found.base_model_id == base_model.pk:
            return found
        if not catalogue.taken_names(tenant, [candidate]):
            return Adapter.objects.create(tenant=tenant, name=candidate, base_model=base_model, created_by=origin.user)
    raise Conflict(_("A model or alias of this name exists already."))


# --- by users


@transaction.atomic
def publish(actor: Actor, adapter: Adapter, number: int | None = None, request=None) -> Adapter:
    """Serve this version (default: the newest) under the adapter's name, to the whole tenant.

    Raises NotFound for an unknown version, Conflict if the base cannot load it.
    """
    adapter = _lock(adapter)
    version = _find_version(adapter, number)
    model_runtime.get_runtime().require_adapters(adapter.base_model, version.rank)
    _set_current(adapter, version)
    audit.record(actor, "adapter.publish", adapter, request=request, name=adapter.name, version=version.number)
    return adapter


@transaction.atomic
def roll_back(actor: Actor, adapter: Adapter, number: int, request=None) -> Adapter:
    """Serve an earlier version under the adapter's name. Raises NotFound, Conflict, InvalidRequest."""
    adapter = _lock(adapter)
    if adapter.current is None:
        raise Conflict(_("The adapter is not published."))
    version = _find_version(adapter, number)
    if version.number >= adapter.current.number:
        problem = _("Version %(current)d is in use: name an earlier one.") % {"current": adapter.current.number}
        raise InvalidRequest(problem, param="version")
    model_runtime.get_runtime().require_adapters(adapter.base_model, version.rank)
    before = adapter.current.number
    _set_current(adapter, version)
    audit.record(
        actor, "adapter.rollback", adapter, request=request, name=adapter.name, version=number, before=before
    )  # fmt: skip
    return adapter


@transaction.atomic
def unpublish(actor: Actor, adapter: Adapter, request=None) -> Adapter:
    """Stop serving the adapter. Does nothing if it is not published."""
    adapter = _lock(adapter)
    if adapter.current:
        adapter.current = None
        adapter.save(update_fields=["current", "updated_at"])
        audit.record(actor, "adapter.unpublish", adapter, request=request, name=adapter.name)
    return adapter


@transaction.atomic
def delete(actor: Actor, adapter: Adapter, request=None) -> None:
    """Delete it with all versions. Raises Conflict while it is published or has requests in flight; Forbidden."""
    adapter = _lock(adapter)
    if not (actor.may(Permission.MANAGE_MODELS) or adapter.created_by in (None, actor.user)):
        raise Forbidden(_("Somebody else had this adapter trained: an admin can delete it."))
    if adapter.current:
        raise Conflict(_("The adapter is published. Unpublish it first."))
    versions = list(adapter.versions.select_related("tenant"))
    if model_runtime.get_runtime().adapters_in_use([version.pk for version in versions]):
        raise Conflict(_("Requests for the adapter are in flight. Try again shortly."), retry_after=5)
    audit.record(actor, "adapter.delete", adapter, request=request, name=adapter.name)
    for version in versions:
        transaction.on_commit(partial(_remove_files, files.folder_of(version), version.pk))
    adapter.delete()


def version_to_download(adapter: Adapter, number: int | None) -> AdapterVersion:
    """By default the one in use, else the newest. Raises NotFound."""
    return adapter.current if adapter.current and number is None else _find_version(adapter, number)


def _remove_files(folder: Path, version_id: str) -> None:
    """Remove the files, unless an engine has them loaded: then `remove_orphans` removes them later."""
    if not model_runtime.get_runtime().adapters_loaded([version_id]):
        files.remove(folder)


def remove_orphans(older_than: float = 24 * 3600.0) -> None:
    """Remove folders without a row that no engine has loaded: of deleted versions and of trainings never saved.

    Only folders older than `older_than` (s): a newer one may belong to a training whose row was not committed while the
    database was unreachable, and which is saved again afterwards.
    """
    folders = {path.name: path for path in files.folders_older_than(older_than)}
    known = set(AdapterVersion.objects.filter(pk__in=folders).values_list("pk", flat=True))
    unknown = folders.keys() - known
    for version_id in unknown - model_runtime.get_runtime().adapters_loaded(list(unknown)).keys():
        files.remove(folders[version_id])


def _lock(adapter: Adapter) -> Adapter:
    """Lock and reload the row. Raises NotFound if it was deleted meanwhile."""
    rows = Adapter.objects.select_for_update(of=["self"]).select_related(
        "base_model", "current", "tenant", "created_by"
    )
    found = rows.filter(pk=adapter.pk).first()
    if found is None:
        raise NotFound()
    return found


def _find_version(adapter: Adapter, number: int | None) -> AdapterVersion:
    versions = adapter.versions.all() if number is None else adapter.versions.filter(number=number)
    found = versions.order_by("-number").first()
    if found is None:
        raise NotFound(_("The adapter has no such version."))
    return found


def _set_current(adapter: Adapter, version: AdapterVersion) -> None:
    if version.published_at is None:
        version.published_at = timezone.now()
        version.save(update_fields=["published_at", "updated_at"])
    adapter.current = version
    adapter.save(update_fields=["current", "updated_at"])
