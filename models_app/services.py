"""What users do with the catalogue: find, create, change and delete models."""

from collections.abc import Iterable
from functools import partial

from django.db import transaction
from django.db.models import Q
from django.utils.translation import gettext as _

from accounts import audit
from accounts.actor import Actor
from accounts.models import Tenant
from core.errors import Conflict, Forbidden, InvalidRequest, ModelAlreadyExists, ModelNotFound
from models_app import artefacts, model_runtime, options, profiles
from models_app.models import RESERVED_NAMES, Adapter, Model, ModelAlias, Visibility

LONGEST_NAME = 200
MERGED = {"config", "resource_requirements"}
SIZING = {"config", "resource_requirements", "profiles", "framework"}
# A name whose last part is a route of its own could not be told from that route.
RESERVED_ENDINGS = {
    "start", "stop", "restart", "info", "logs", "stream", "generate", "completions", "embeddings", "estimate",
    "crashes", "explain",
}  # fmt: skip


def find(actor: Actor, ref: str) -> Model:
    """By id, own name, own alias, then public ones. Raises ModelNotFound, for foreign ones too."""
    named = Q(pk=ref) | Q(name=ref) | Q(aliases__name=ref)
    usable = Model.objects.usable_by(actor).select_related("tenant").prefetch_related("aliases")
    # Postgres knows no NUL character, and no name has one
    candidates = [] if "\0" in ref else usable.filter(named).order_by("created_at", "pk").distinct()
    found = min(candidates, key=lambda model: _rank(actor, model, ref), default=None)
    if found is None:
        raise ModelNotFound(details={"model_id": ref})
    return found


def _rank(actor: Actor, model: Model, ref: str) -> int:
    if model.pk == ref:
        return 0
    own = actor.tenant is None or model.tenant_id == actor.tenant.pk
    return (1 if model.name == ref else 2) + (0 if own else 2)


def find_own(actor: Actor, ref: str) -> Model:
    """As find, for those who want to change or run it: another tenant's public model is not theirs to touch."""
    model = find(actor, ref)
    if not actor.is_operator and model.tenant_id != actor.tenant.pk:
        raise Forbidden(_("The model belongs to another tenant."))
    return model


def own_ids(actor: Actor, model_ids: Iterable[str]) -> set[str]:
    """Those of the ids for which find_own would find a model."""
    found = Model.objects.usable_by(actor).filter(pk__in=model_ids)
    found = found if actor.is_operator else found.filter(tenant=actor.tenant)
    return set(found.values_list("pk", flat=True))


def resolve_id(actor: Actor, ref: str) -> str | None:
    """Of a model or an adapter, for keys that are limited to some."""
    try:
        return find(actor, ref).pk
    except ModelNotFound:
        adapters = Adapter.objects.none() if "\0" in ref else Adapter.objects.visible_to(actor)
        return adapters.filter(Q(pk=ref) | Q(name=ref)).values_list("pk", flat=True).first()


def lock(model: Model) -> Model:
    """The row as it is now, held to the end of the transaction: who changes it, or what runs of it, begins here.

    Raises ModelNotFound for one that was deleted meanwhile.
    """
    locked = Model.objects.select_for_update(of=["self"]).select_related("tenant").filter(pk=model.pk).first()
    if locked is None:
        raise ModelNotFound(details={"model_id": model.name})
    return locked


@transaction.atomic
def create(actor: Actor, fields: dict, request=None) -> tuple[Model, list[str]]:
    """A new model of the actor's tenant, and warnings about what will keep it from starting."""
    if actor.tenant is None:
        raise InvalidRequest(_("Name a tenant: header Serai-Tenant."))
    names = fields.pop("aliases", [])
    model = Model(tenant=actor.tenant, created_by=actor.user, **fields)
    _check_options(model)
    _check_visibility(actor, Visibility.PRIVATE, model.visibility)
    _check_machines(actor, fields)
    warnings = _look_at_files(model, guess_mode="mode" not in fields) + model_runtime.get().doubts(model)
    claim_names(model, names)
    model.save()
    set_aliases(model, names)
    audit.record(actor, "model.create", model, request=request, name=model.name)
    return model, warnings


@transaction.atomic
def change(actor: Actor, model: Model, fields: dict, request=None) -> tuple[Model, list[str]]:
    """Merge `fields`: what is left out stays, `config` is merged too (null removes an option)."""
    model = lock(model)
    names = fields.pop("aliases", None)
    _check_visibility(actor, model.visibility, fields.get("visibility", model.visibility))
    for name, value in fields.items():
        setattr(model, name, merge(getattr(model, name), value) if name in MERGED else value)
    _check_options(model)
    _check_machines(actor, fields)
    _check_weights(model)
    warnings = _look_at_files(model) if {"config", "framework"} & fields.keys() else []
    warnings += model_runtime.get().doubts(model) if SIZING & fields.keys() else []
    claim_names(model, [alias.name for alias in model.aliases.all()] if names is None else names)
    model.save()
    if names is not None:
        set_aliases(model, names)
    if "replicas" in fields:
        warnings += model_runtime.get().scale(model)
    audit.record(actor, "model.change", model, request=request, fields=sorted(fields))
    return model, warnings


def merge(old: dict, new) -> dict:
    """`new` over `old`; what is not an object is left for the check of options to refuse."""
    if not isinstance(new, dict):
        return new
    return {name: value for name, value in {**old, **new}.items() if value is not None}


def delete(actor: Actor, model: Model, *, force: bool, request=None) -> None:
    """Raises Conflict for a running model unless `force`, which ends it first."""
    running = model_runtime.get()
    _require_unneeded(model)
    if force:
        running.end(model)
    with transaction.atomic():
        locked = lock(model)  # nothing is started from here on
        if running.is_active(locked):
            raise Conflict(_("The model is running. Stop it first, or add force=true."))
        _require_unneeded(locked)
        audit.record(actor, "model.delete", locked, request=request, name=locked.name, force=force)
        transaction.on_commit(partial(running.forget, locked.pk))
        locked.delete()


def _require_unneeded(model: Model) -> None:
    if why := why_kept(model):
        raise Conflict(why)


def why_kept(model: Model) -> str:
    """What else than its own engines keeps it from being deleted; empty where nothing does."""
    return (
        _("The model has adapters. Delete them first.")
        if model.adapters.exists()
        else model_runtime.needed_because(model)
    )


def check(model: Model) -> None:
    """What does not depend on who asks: options, files, wishes that can be fulfilled, and a name that is free."""
    _check_options(model)
    _check_weights(model)
    _look_at_files(model)
    model_runtime.get().doubts(model)
    require_free_name(model.tenant, model.name, besides=model.pk)


def _check_options(model: Model) -> None:
    options.check_config(model.framework, model.config)
    options.check_resources(model.resource_requirements)
    profiles.check(model.framework, model.profiles)


def _check_weights(model: Model) -> None:
    """They stay while something was, or is being, made of them. Raises Conflict."""
    before = Model.objects.filter(pk=model.pk).values_list("config__model_path", flat=True).first()
    if before not in (None, model.config.get("model_path")):
        _require_unneeded(model)


def _check_machines(actor: Actor, fields: dict) -> None:
    if not actor.is_operator and any("node" in entry for entry in fields.get("profiles", [])):
        raise Forbidden(_("Only an operator names a machine."))


def _check_visibility(actor: Actor, before: str, after: str) -> None:
    if after == Visibility.PUBLIC and before != after and not actor.is_operator:
        raise Forbidden(_("Only an operator makes a model public."))


def _look_at_files(model: Model, guess_mode: bool = False) -> list[str]:
    """Files that are missing yet are a warning; files that no engine may see are an error."""
    try:
        artefact = artefacts.check_startable(model)
    except artefacts.Missing as missing:
        return [str(missing.message)]
    if guess_mode:
        model.mode = artefact.mode
    return []


# --- names


def claim_names(model: Model, aliases: list[str]) -> None:
    """Names, aliases and adapters share one space in a tenant; its row is the lock until the transaction ends.

    Raises InvalidRequest, ModelAlreadyExists.
    """
    lock_names(model.tenant_id)
    names = [model.name, *aliases]
    for name in names:
        check_name("aliases" if name in aliases else "name", name)
    if len(set(names)) < len(names):
        raise InvalidRequest(details={"aliases": _("A name occurs twice.")})
    if taken := taken_names(model.tenant, names, besides=model.pk):
        raise ModelAlreadyExists(details={"name": taken[0]})


def lock_names(tenant_id: str) -> None:
    Tenant.objects.select_for_update(no_key=True).get(pk=tenant_id)


def require_free_name(tenant: Tenant, name: str, besides: str | None = None) -> None:
    """For those who have work to do before they create or change a model. Raises InvalidRequest, ModelAlreadyExists."""
    check_name("name", name)
    if taken_names(tenant, [name], besides):
        raise ModelAlreadyExists(details={"name": name})


def taken_names(tenant: Tenant, names: list[str], besides: str | None = None) -> list[str]:
    """Those of `names` that a model, an alias or an adapter has, but for what belongs to the one `besides`."""
    models = Model.objects.of(tenant).exclude(pk=besides)
    aliases = ModelAlias.objects.of(tenant).exclude(model_id=besides)
    adapters = Adapter.objects.of(tenant).exclude(pk=besides)
    owners = [
        rows.filter(name__in=names).order_by().values_list("name", flat=True) for rows in (models, aliases, adapters)
    ]
    return list(owners[0].union(*owners[1:]))


def check_name(field: str, name: str) -> None:
    parts = name.split("/")
    visible = name.isprintable() and name == name.strip() and len(name) <= LONGEST_NAME
    if not visible or ".." in parts or "" in parts:
        problem = _("1 to %(most)d visible characters are expected, without empty parts or '..' between slashes.")
        raise InvalidRequest(details={field: problem % {"most": LONGEST_NAME}})
    if name in RESERVED_NAMES or (len(parts) > 1 and parts[-1] in RESERVED_ENDINGS):
        raise InvalidRequest(details={field: _("%(name)s is a reserved name.") % {"name": name}})


def set_aliases(model: Model, names: list[str]) -> None:
    model.aliases.exclude(name__in=names).delete()
    present = set(model.aliases.values_list("name", flat=True))
    ModelAlias.objects.bulk_create(
        ModelAlias(tenant_id=model.tenant_id, model=model, name=name) for name in names if name not in present
    )
