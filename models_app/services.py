"""What users do with the catalogue: find, create, change and delete models."""

import re

from django.db import transaction
from django.utils.translation import gettext as _

from accounts import audit
from accounts.actor import Actor
from accounts.models import Tenant
from core.errors import Forbidden, InvalidRequest, ModelAlreadyExists, ModelNotFound
from models_app import artefacts, lifecycle, options
from models_app.models import RESERVED_NAMES, Mode, Model, ModelAlias, Visibility

# The last part of a path that is a route of its own would hide a model of that name.
RESERVED_ENDINGS = {
    "start",
    "stop",
    "restart",
    "info",
    "logs",
    "stream",
    "generate",
    "completions",
    "embeddings",
    "estimate",
    "explain",
}
NAME = re.compile(r"[^\s/\x00-\x1f\x7f](?:[^\x00-\x1f\x7f]{0,198}[^\s/\x00-\x1f\x7f])?")
MODES = {"Embedding": Mode.EMBEDDING, "SequenceClassification": Mode.RERANKER}


def find(actor: Actor, ref: str) -> Model:
    """By id, own name, own alias, then public ones. Raises ModelNotFound, for foreign ones too."""
    usable = Model.objects.usable_by(actor).select_related("tenant").prefetch_related("aliases")
    own = usable.filter(tenant=actor.tenant) if actor.tenant else usable
    for candidates in (
        usable.filter(pk=ref),
        own.filter(name=ref),
        own.filter(aliases__name=ref),
        usable.filter(name=ref),
        usable.filter(aliases__name=ref),
    ):
        if model := candidates.first():
            return model
    raise ModelNotFound(details={"model_id": ref})


def find_own(actor: Actor, ref: str) -> Model:
    """As find, for those who want to change or run it: another tenant's public model is not theirs to touch."""
    model = find(actor, ref)
    if not actor.is_operator and model.tenant_id != actor.tenant.pk:
        raise Forbidden(_("The model belongs to another tenant."))
    return model


@transaction.atomic
def create(actor: Actor, fields: dict, request=None) -> tuple[Model, list[str]]:
    """A new model of the actor's tenant, and warnings about what will keep it from starting."""
    if actor.tenant is None:
        raise InvalidRequest(_("Name a tenant: header Serai-Tenant."))
    aliases = fields.pop("aliases", [])
    model = Model(tenant=actor.tenant, created_by=actor.user, **fields)
    _check(actor, model)
    warnings = _look_at_files(model, guess_mode="mode" not in fields)
    _claim_names(model, [model.name, *aliases])
    model.save()
    _set_aliases(model, aliases)
    audit.record(actor, "model.create", model, request=request, name=model.name)
    return model, warnings


@transaction.atomic
def change(actor: Actor, model: Model, fields: dict, request=None) -> Model:
    """Merge `fields`: what is left out stays, `config` is merged too (null removes an option)."""
    aliases = fields.pop("aliases", None)
    for name in ("config", "resource_requirements"):
        if name in fields:
            fields[name] = merge(getattr(model, name), fields[name])
    for name, value in fields.items():
        setattr(model, name, value)
    _check(actor, model)
    _look_at_files(model, guess_mode=False)
    names = [model.name, *(aliases if aliases is not None else [alias.name for alias in model.aliases.all()])]
    _claim_names(model, names)
    model.save()
    if aliases is not None:
        _set_aliases(model, aliases)
    audit.record(actor, "model.change", model, request=request, fields=sorted(fields))
    return model


def delete(actor: Actor, model: Model, *, force: bool, request=None) -> None:
    """Raises Conflict for a running model unless `force`, which stops it first."""
    lifecycle.get().end_for_deletion(model, force)
    with transaction.atomic():
        audit.record(actor, "model.delete", model, request=request, name=model.name, force=force)
        model.delete()


def merge(old: dict, new: dict) -> dict:
    if not isinstance(new, dict):
        return new
    merged = {**old, **new}
    return {name: value for name, value in merged.items() if value is not None}


def _check(actor: Actor, model: Model) -> None:
    options.check_config(model.framework, model.config)
    options.check_resources(model.resource_requirements)
    if model.visibility == Visibility.PUBLIC and not actor.is_operator:
        before = Model.objects.filter(pk=model.pk).values_list("visibility", flat=True).first()
        if before != Visibility.PUBLIC:
            raise Forbidden(_("Only an operator makes a model public."))


def _look_at_files(model: Model, guess_mode: bool) -> list[str]:
    """Files that are missing yet are a warning; files that no engine may see are an error."""
    try:
        artefact = artefacts.check_startable(model)
    except artefacts.Missing as missing:
        return [str(missing.message)]
    if guess_mode:
        architecture = " ".join(artefact.parameters.get("architectures") or [])
        model.mode = next((mode for word, mode in MODES.items() if word in architecture), Mode.CHAT)
    return []


def _claim_names(model: Model, names: list[str]) -> None:
    """Names and aliases share one space in a tenant; the tenant's row is the lock."""
    Tenant.objects.select_for_update().get(pk=model.tenant_id)
    if len(set(names)) < len(names):
        raise InvalidRequest(details={"aliases": _("A name occurs twice.")})
    for name in names:
        check_name(name)
    taken = Model.objects.of(model.tenant).exclude(pk=model.pk).filter(name__in=names).values_list("name", flat=True)
    aliases = ModelAlias.objects.of(model.tenant).exclude(model_id=model.pk).filter(name__in=names)
    clash = [*taken, *aliases.values_list("name", flat=True)]
    if clash:
        raise ModelAlreadyExists(details={"name": clash[0]})


def check_name(name: str) -> None:
    parts = name.split("/")
    if not NAME.fullmatch(name) or ".." in parts or "" in parts:
        raise InvalidRequest(
            details={"name": _("1 to 200 visible characters are expected, without empty parts or '..'.")}
        )
    if name in RESERVED_NAMES or (len(parts) > 1 and parts[-1] in RESERVED_ENDINGS):
        raise InvalidRequest(details={"name": _("%(name)s is a reserved name.") % {"name": name}})


def _set_aliases(model: Model, names: list[str]) -> None:
    model.aliases.exclude(name__in=names).delete()
    present = set(model.aliases.values_list("name", flat=True))
    ModelAlias.objects.bulk_create(
        ModelAlias(tenant_id=model.tenant_id, model=model, name=name) for name in names if name not in present
    )


def resolve_id(actor: Actor, ref: str) -> str | None:
    """For keys that are limited to some models."""
    try:
        return find(actor, ref).pk
    except ModelNotFound:
        return None
