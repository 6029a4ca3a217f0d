"""Operations on the catalogue: find, create, change and delete models."""

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

MAX_NAME_LENGTH = 200
MERGED = {"config", "resource_requirements"}
SIZING = {"config", "resource_requirements", "profiles", "framework"}
# A name whose last part is also a sub-route could not be distinguished from that route.
RESERVED_ENDINGS = {
    "start", "stop", "restart", "info", "logs", "stream", "generate", "completions", "embeddings", "estimate",
    "crashes", "explain",
}  # fmt: skip


def find(actor: Actor, ref: str) -> Model:
    """By id, own name, own alias, then public ones. Raises ModelNotFound, for foreign ones too.

    What the reference means does not depend on the key's models: only whether the key may use it does.
    gateway/routing/model_lookup.py decides the same over its snapshot; tests/gateway/test_one_rule.py has the cases.
    """
    named = Q(pk=ref) | Q(name=ref) | Q(aliases__name=ref)
    rows = Model.objects.nameable_by(actor).select_related("tenant").prefetch_related("aliases")
    # Postgres knows no NUL character, and no name has one
    candidates = [] if "\0" in ref else rows.filter(named).order_by("created_at", "pk").distinct()
    found = min(candidates, key=lambda model: _rank(actor, model, ref), default=None)
    if found is None or not _key_allows(actor, found) or _is_hidden(actor, found, ref):
        raise ModelNotFound(details={"model_id": ref})
    return found


def _rank(actor: Actor, model: Model, ref: str) -> int:
    if model.pk == ref:
        return 0
    own = actor.tenant is None or model.tenant_id == actor.tenant.pk
    return (1 if model.name == ref else 2) + (0 if own else 2)


def _key_allows(actor: Actor, model: Model) -> bool:
    limited = actor.key.allowed_models if actor.key else []
    return not limited or model.pk in limited


def _is_hidden(actor: Actor, model: Model, ref: str) -> bool:
    """Whether the name means an adapter of the actor's tenant, not this public model. An adapter is no model."""
    if actor.tenant is None or model.pk == ref or model.tenant_id == actor.tenant.pk:
        return False
    return Adapter.objects.of(actor.tenant).filter(name=ref).exists()


def find_own(actor: Actor, ref: str) -> Model:
    """Like find, for callers that change or run the model. Raises Forbidden for another tenant's public model."""
    model = find(actor, ref)
    is_own = actor.tenant is not None and model.tenant_id == actor.tenant.pk
    if not (is_own or actor.is_operator):
        raise Forbidden(_("The model belongs to another tenant."))
    return model


def own_ids(actor: Actor, model_ids: Iterable[str]) -> set[str]:
    """The ids for which find_own would return a model."""
    found = Model.objects.usable_by(actor).filter(pk__in=model_ids)
    found = found if actor.is_operator else found.filter(tenant=actor.tenant)
    return set(found.values_list("pk", flat=True))


def resolve_id(actor: Actor, ref: str) -> str | None:
    """The id of a model or an adapter, for keys that are limited to some."""
    try:
        return find(actor, ref).pk
    except ModelNotFound:
        adapters = Adapter.objects.none() if "\0" in ref else Adapter.objects.visible_to(actor)
        return adapters.filter(Q(pk=ref) | Q(name=ref)).values_list("pk", flat=True).first()


def lock(model: Model) -> Model:
    """Lock and reload the row, until the transaction ends. Changes of the model or its instances start with this.

    Raises ModelNotFound if it was deleted meanwhile.
    """
    locked = Model.objects.select_for_update(of=["self"]).select_related("tenant").filter(pk=model.pk).first()
    if locked is None:
        raise ModelNotFound(details={"model_id": model.name})
    return locked


@transaction.atomic
def create(actor: Actor, fields: dict, request=None) -> tuple[Model, list[str]]:
    """A new model of the actor's tenant, and warnings of what prevents its start."""
    if actor.tenant is None:
        raise InvalidRequest(_("Name a tenant: header Serai-Tenant."))
    names = fields.pop("aliases", [])
    model = Model(tenant=actor.tenant, created_by=actor.user, **fields)
    _check_options(model)
    _check_visibility(actor, Visibility.PRIVATE, model.visibility)
    _check_machines(actor, fields)
    warnings = _check_files(model, guess_mode="mode" not in fields) + model_runtime.get_runtime().start_warnings(model)
    claim_names(model, names)
    model.save()
    set_aliases(model, names)
    audit.record(actor, "model.create", model, request=request, name=model.name)
    return model, warnings


@transaction.atomic
def change(actor: Actor, model: Model, fields: dict, request=None) -> tuple[Model, list[str]]:
    """Merge `fields`: omitted fields stay, `config` is merged too (null removes an option)."""
    model = lock(model)
    names = fields.pop("aliases", None)
    _check_visibility(actor, model.visibility, fields.get("visibility", model.visibility))
    for name, value in fields.items():
        setattr(model, name, merge(getattr(model, name), value) if name in MERGED else value)
    _check_options(model)
    _check_machines(actor, fields)
    _check_weights(model)
    warnings = _check_files(model) if {"config", "framework"} & fields.keys() else []
    warnings += model_runtime.get_runtime().start_warnings(model) if SIZING & fields.keys() else []
    claim_names(model, [alias.name for alias in model.aliases.all()] if names is None else names)
    model.save()
    if names is not None:
        set_aliases(model, names)
    if "replicas" in fields:
        warnings += model_runtime.get_runtime().scale(model)
    audit.record(actor, "model.change", model, request=request, fields=sorted(fields))
    return model, warnings


def merge(old: dict, new) -> dict:
    """`new` over `old`. A `new` that is not an object is returned as it is: the option check refuses it later."""
    if not isinstance(new, dict):
        return new
    return {name: value for name, value in {**old, **new}.items() if value is not None}


def delete(actor: Actor, model: Model, *, force: bool, request=None) -> None:
    """Raises Conflict for a running model unless `force`, which stops it first."""
    runtime = model_runtime.get_runtime()
    _require_no_dependents(model)
    if force:
        runtime.end(model)
    with transaction.atomic():
        locked = lock(model)  # no start is possible from here on
        if runtime.is_active(locked):
            raise Conflict(_("The model is running. Stop it first, or add force=true."))
        _require_no_dependents(locked)
        audit.record(actor, "model.delete", locked, request=request, name=locked.name, force=force)
        transaction.on_commit(partial(runtime.forget, locked.pk))
        locked.delete()


def _require_no_dependents(model: Model) -> None:
    if reason := reason_to_keep(model):
        raise Conflict(reason)


def reason_to_keep(model: Model) -> str:
    """The reason why it cannot be deleted, running engines aside; empty if there is none."""
    return (
        _("The model has adapters. Delete them first.")
        if model.adapters.exists()
        else model_runtime.dependency_reason(model)
    )


def check_model(model: Model) -> None:
    """The checks that do not depend on the caller: options, files, requirements that can be met, and a free name."""
    _check_options(model)
    _check_weights(model)
    _check_files(model)
    model_runtime.get_runtime().start_warnings(model)
    require_free_name(model.tenant, model.name, except_id=model.pk)


def _check_options(model: Model) -> None:
    options.check_config(model.framework, model.config)
    options.check_resources(model.resource_requirements)
    profiles.check(model.framework, model.profiles)


def _check_weights(model: Model) -> None:
    """The weights must not change while adapters or trainings depend on them. Raises Conflict."""
    before = Model.objects.filter(pk=model.pk).values_list("config__model_path", flat=True).first()
    if before not in (None, model.config.get("model_path")):
        _require_no_dependents(model)


def _check_machines(actor: Actor, fields: dict) -> None:
    if not actor.is_operator and any("node" in entry for entry in fields.get("profiles", [])):
        raise Forbidden(_("Only an operator names a machine."))


def _check_visibility(actor: Actor, before: str, after: str) -> None:
    if after == Visibility.PUBLIC and before != after and not actor.is_operator:
        raise Forbidden(_("Only an operator makes a model public."))


def _check_files(model: Model, guess_mode: bool = False) -> list[str]:
    """Missing files are a warning; files that no engine may load are an error."""
    try:
        artefact = artefacts.check_startable(model)
    except artefacts.MissingWeights as missing:
        return [str(missing.message)]
    if guess_mode:
        model.mode = artefact.mode
    return []


# --- names


def claim_names(model: Model, aliases: list[str]) -> None:
    """Names, aliases and adapters share one namespace per tenant; the tenant's row is locked for the transaction.

    Raises InvalidRequest, ModelAlreadyExists.
    """
    lock_names(model.tenant_id)
    names = [model.name, *aliases]
    for name in names:
        check_name("aliases" if name in aliases else "name", name)
    if len(set(names)) < len(names):
        raise InvalidRequest(details={"aliases": _("A name occurs twice.")})
    if taken := taken_names(model.tenant, names, except_id=model.pk):
        raise ModelAlreadyExists(details={"name": taken[0]})


def lock_names(tenant_id: str) -> None:
    Tenant.objects.select_for_update(no_key=True).get(pk=tenant_id)


def require_free_name(tenant: Tenant, name: str, except_id: str | None = None) -> None:
    """An early check, before slow work that creates or changes a model. Raises InvalidRequest, ModelAlreadyExists."""
    check_name("name", name)
    if taken_names(tenant, [name], except_id):
        raise ModelAlreadyExists(details={"name": name})


def taken_names(tenant: Tenant, names: list[str], except_id: str | None = None) -> list[str]:
    """The `names` that a model, an alias or an adapter has already, ignoring the one with the id `except_id`."""
    models = Model.objects.of(tenant).exclude(pk=except_id)
    aliases = ModelAlias.objects.of(tenant).exclude(model_id=except_id)
    adapters = Adapter.objects.of(tenant).exclude(pk=except_id)
    owners = [
        rows.filter(name__in=names).order_by().values_list("name", flat=True) for rows in (models, aliases, adapters)
    ]
    return list(owners[0].union(*owners[1:]))


def check_name(field: str, name: str) -> None:
    parts = name.split("/")
    visible = name.isprintable() and name == name.strip() and len(name) <= MAX_NAME_LENGTH
    if not visible or ".." in parts or "" in parts:
        problem = _("1 to %(most)d visible characters are expected, without empty parts or '..' between slashes.")
        raise InvalidRequest(details={field: problem % {"most": MAX_NAME_LENGTH}})
    if name in RESERVED_NAMES or (len(parts) > 1 and parts[-1] in RESERVED_ENDINGS):
        raise InvalidRequest(details={field: _("%(name)s is a reserved name.") % {"name": name}})


def set_aliases(model: Model, names: list[str]) -> None:
    model.aliases.exclude(name__in=names).delete()
    present = set(model.aliases.values_list("name", flat=True))
    ModelAlias.objects.bulk_create(
        ModelAlias(tenant_id=model.tenant_id, model=model, name=name) for name in names if name not in present
    )
