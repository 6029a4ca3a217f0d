"""The model that a reference means for a caller, and the models that it may see: pure functions over a snapshot."""

from django.utils.text import format_lazy
from django.utils.translation import gettext_lazy as _

from core import errors
from gateway.routing import adapter_lookup
from gateway.routing.snapshot import Caller, ModelEntry, RoutingSnapshot


def resolve_model(caller: Caller, ref: str | None, snapshot: RoutingSnapshot) -> ModelEntry:
    """The model that `ref` names for this caller: by id, own name or alias, own adapter, then public name."""
    if ref is None or ref == "default":
        ref = _default_ref(caller, snapshot)
    model = _find_by_id(caller, ref, snapshot) or _find_by_name(caller, ref, snapshot)
    if model is None or not (model.adapter or _key_allows(caller, model)):
        raise model_not_found(ref)
    return model


def _key_allows(caller: Caller, model: ModelEntry) -> bool:
    return caller.models is None or model.id in caller.models


def model_not_found(ref: str) -> errors.ModelNotFound:
    name = ref[:200]
    message = format_lazy(_("The model '{name}' does not exist, or you have no access to it."), name=name)
    return errors.ModelNotFound(message, details={"model_id": name})


def _default_ref(caller: Caller, snapshot: RoutingSnapshot) -> str:
    tenant = snapshot.tenants.get(caller.tenant_id)
    if tenant and tenant.default_model:
        return tenant.default_model
    raise errors.InvalidRequest(_("Name a model: your tenant has no default one."), param="model")


def _find_by_id(caller: Caller, ref: str, snapshot: RoutingSnapshot) -> ModelEntry | None:
    model = snapshot.models.get(ref)
    if model and (model.tenant_id == caller.tenant_id or model.public or caller.sees_all):
        return model
    return None


def _find_by_name(caller: Caller, ref: str, snapshot: RoutingSnapshot) -> ModelEntry | None:
    own = snapshot.names.get(caller.tenant_id)
    found = own.get(ref) if own else None
    found = found or adapter_lookup.find_adapter(caller, ref, snapshot)
    if found or adapter_lookup.is_own_name(caller, ref, snapshot):
        return found
    return snapshot.public.get(ref)


def visible_models(caller: Caller, snapshot: RoutingSnapshot) -> list[ModelEntry]:
    """Models that the caller can use, adapters last; an own model hides a public one of the same name."""
    models = snapshot.models.values()
    own = [model for model in models if model.tenant_id == caller.tenant_id]
    foreign = [model for model in models if model.public and model.tenant_id != caller.tenant_id]
    named = [model for model in own + foreign if _find_by_name(caller, model.name, snapshot) is model]
    return [model for model in named if _key_allows(caller, model)] + adapter_lookup.visible_adapters(caller, snapshot)
