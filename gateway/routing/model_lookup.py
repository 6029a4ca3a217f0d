"""Decisions of the data plane, as pure functions over a snapshot: the caller, the model, the replica."""

import hmac
from collections.abc import Callable, Collection, Mapping

from django.utils.text import format_lazy
from django.utils.translation import gettext_lazy as _

from accounts.keys import PREFIX
from accounts.policy import Permission
from accounts.tokens import Claims
from core import errors
from gateway.routing import adapter_lookup, replica_choice
from gateway.routing.snapshot import Caller, InstanceEntry, ModelEntry, RoutingSnapshot, UserEntry

BEARER = b"bearer "
KEY_PREFIX = PREFIX.encode()
MAX_CREDENTIAL_LENGTH = 4096

VerifyToken = Callable[[str], Claims]
Run = tuple[str, int]  # instance id and generation


def credential(headers: Mapping[bytes, bytes]) -> bytes | None:
    """The API key or token of a request, None without one. Raises Unauthenticated for another scheme."""
    found = headers.get(b"x-api-key")
    if found is None:
        found = headers.get(b"authorization")
        if found is None:
            return None
        if found[:7].lower() != BEARER:
            raise errors.Unauthenticated()
        found = found[7:]
    found = found.strip()
    if not found or len(found) > MAX_CREDENTIAL_LENGTH or not found.isascii():
        raise errors.Unauthenticated()
    return found


def authenticate(
    headers: Mapping[bytes, bytes],
    snapshot: RoutingSnapshot,
    now: float,
    *,
    pepper: bytes,
    verify: VerifyToken,
    anonymous: str = "",
) -> Caller:
    """The caller, by key, by token or (where the operator allows it) without a credential. Raises Unauthenticated.

    `now` is in epoch seconds; `verify` returns a valid token's claims or raises Unauthenticated; `anonymous` is
    the slug of the tenant for callers without a credential.
    """
    secret = credential(headers)
    if secret is None:
        return _anonymous_caller(snapshot, anonymous)
    if not secret.startswith(KEY_PREFIX):
        return _caller_of_token(verify(secret.decode()), headers.get(b"serai-tenant"), snapshot)
    entry = snapshot.keys.get(hmac.digest(pepper, secret, "sha256"))
    if entry is None or (entry.expires_at is not None and entry.expires_at <= now):
        raise errors.Unauthenticated()
    return entry.caller


def _anonymous_caller(snapshot: RoutingSnapshot, slug: str) -> Caller:
    tenant = snapshot.slugs.get(slug) if slug else None
    if tenant is None:
        raise errors.Unauthenticated()
    return Caller(tenant.id, "member")


def _caller_of_token(claims: Claims, tenant_header: bytes | None, snapshot: RoutingSnapshot) -> Caller:
    user = snapshot.users.get(claims.user_id)
    if user is None or claims.session_id in snapshot.revoked_sessions:
        raise errors.Unauthenticated()
    tenant_id = _tenant_from_header(user, tenant_header, snapshot) if tenant_header else _default_tenant(user, snapshot)
    return Caller(tenant_id, user.roles.get(tenant_id), user_id=user.id, operator=user.operator)


def _tenant_from_header(user: UserEntry, tenant_header: bytes, snapshot: RoutingSnapshot) -> str:
    """The tenant of the header Serai-Tenant, by slug or id; NotFound for others than members and operators."""
    name = tenant_header.decode("latin-1")
    tenant = snapshot.slugs.get(name) or snapshot.tenants.get(name)
    if tenant is None or not (user.operator or tenant.id in user.roles):
        raise errors.NotFound()
    return tenant.id


def _default_tenant(user: UserEntry, snapshot: RoutingSnapshot) -> str:
    tenant_id = user.default_tenant_id
    if tenant_id in snapshot.tenants and (user.operator or tenant_id in user.roles):
        return tenant_id
    for tenant_id in user.roles:
        if tenant_id in snapshot.tenants:
            return tenant_id
    raise errors.Forbidden(_("You belong to no tenant: name one in the header Serai-Tenant."))


def require_permission(caller: Caller, permission: Permission) -> None:
    if not caller.may(permission):
        raise errors.Forbidden()


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
    if model and (model.tenant_id == caller.tenant_id or model.public or caller.operator):
        return model
    return None


def _find_by_name(caller: Caller, ref: str, snapshot: RoutingSnapshot) -> ModelEntry | None:
    own = snapshot.names.get(caller.tenant_id)
    found = own.get(ref) if own else None
    return found or adapter_lookup.find_adapter(caller, ref, snapshot) or snapshot.public.get(ref)


def visible_models(caller: Caller, snapshot: RoutingSnapshot) -> list[ModelEntry]:
    """Models that the caller can use, adapters last; an own model hides a public one of the same name."""
    models = snapshot.models.values()
    own = [model for model in models if model.tenant_id == caller.tenant_id]
    foreign = [model for model in models if model.public and model.tenant_id != caller.tenant_id]
    named = [model for model in own + foreign if _find_by_name(caller, model.name, snapshot) is model]
    return [model for model in named if _key_allows(caller, model)] + adapter_lookup.visible_adapters(caller, snapshot)


def choose_replica(
    model: ModelEntry,
    snapshot: RoutingSnapshot,
    inflight: Mapping[str, int],
    exclude: Collection[Run] = (),
    *,
    recently_failed: Collection[Run] = (),
    prefix: Callable[[], bytes | None] = lambda: None,
) -> InstanceEntry | None:
    """The replica that is to answer; None if none can serve.

    Healthy replicas outside `recently_failed` are preferred. Among equals it is the one that has most likely seen this
    beginning of a prompt (`prefix`, computed only where there is a choice), unless its load is far above the others';
    without a prefix, the one with the fewest requests in flight. `exclude` holds the runs (instance id, generation)
    that have failed this request, `recently_failed` those that failed any request.
    """
    candidates = [
        entry
        for entry in snapshot.of_model(model.id)
        if entry.serves(model) and (entry.id, entry.generation) not in exclude
    ]
    if len(candidates) < 2:
        return candidates[0] if candidates else None
    trusted = [entry for entry in candidates if entry.healthy and (entry.id, entry.generation) not in recently_failed]
    preferred = trusted or [entry for entry in candidates if entry.healthy] or candidates
    return preferred[0] if len(preferred) == 1 else replica_choice.pick_replica(preferred, inflight, prefix())
