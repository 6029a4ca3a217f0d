"""Decisions of the data plane, pure functions over a snapshot: who asks, for which model, who serves."""

import hmac
from collections.abc import Callable, Collection, Mapping

from django.utils.text import format_lazy
from django.utils.translation import gettext_lazy as _

from accounts.keys import PREFIX
from accounts.policy import Permission
from accounts.tokens import Claims
from core import errors
from gateway.routing import adapter_lookup, replica_choice
from gateway.routing.snapshot import InstanceEntry, ModelEntry, Principal, Snapshot, UserEntry

BEARER = b"bearer "
KEY_START = PREFIX.encode()
LONGEST_CREDENTIAL = 4096

Verify = Callable[[str], Claims]
Run = tuple[str, int]  # instance id and generation


def credential(headers: Mapping[bytes, bytes]) -> bytes | None:
    """The API key or token that a request brings. Raises Unauthenticated for another scheme."""
    found = headers.get(b"x-api-key")
    if found is None:
        found = headers.get(b"authorization")
        if found is None:
            return None
        if found[:7].lower() != BEARER:
            raise errors.Unauthenticated()
        found = found[7:]
    found = found.strip()
    if not found or len(found) > LONGEST_CREDENTIAL or not found.isascii():
        raise errors.Unauthenticated()
    return found


def authenticate(
    headers: Mapping[bytes, bytes],
    snapshot: Snapshot,
    now: float,
    *,
    pepper: bytes,
    verify: Verify,
    anonymous: str = "",
) -> Principal:
    """Who acts, by key, token or (where the operator allows it) nothing. Raises Unauthenticated.

    `now` is in epoch seconds; `verify` checks a token by itself or raises Unauthenticated; `anonymous` is the
    slug of the tenant that callers without a credential act for.
    """
    secret = credential(headers)
    if secret is None:
        return _anonymous(snapshot, anonymous)
    if not secret.startswith(KEY_START):
        return _by_token(verify(secret.decode()), headers.get(b"serai-tenant"), snapshot)
    entry = snapshot.keys.get(hmac.digest(pepper, secret, "sha256"))
    if entry is None or (entry.expires_at is not None and entry.expires_at <= now):
        raise errors.Unauthenticated()
    return entry.principal


def _anonymous(snapshot: Snapshot, slug: str) -> Principal:
    tenant = snapshot.slugs.get(slug) if slug else None
    if tenant is None:
        raise errors.Unauthenticated()
    return Principal(tenant.id, "member")


def _by_token(claims: Claims, wish: bytes | None, snapshot: Snapshot) -> Principal:
    user = snapshot.users.get(claims.user_id)
    if user is None or claims.session_id in snapshot.revoked_sessions:
        raise errors.Unauthenticated()
    tenant_id = _named_tenant(user, wish, snapshot) if wish else _default_tenant(user, snapshot)
    return Principal(tenant_id, user.roles.get(tenant_id), user_id=user.id, operator=user.operator)


def _named_tenant(user: UserEntry, wish: bytes, snapshot: Snapshot) -> str:
    """The tenant of the header Serai-Tenant, by slug or id; honoured for members and operators."""
    name = wish.decode("latin-1")
    tenant = snapshot.slugs.get(name) or snapshot.tenants.get(name)
    if tenant is None or not (user.operator or tenant.id in user.roles):
        raise errors.NotFound()
    return tenant.id


def _default_tenant(user: UserEntry, snapshot: Snapshot) -> str:
    tenant_id = user.default_tenant_id
    if tenant_id in snapshot.tenants and (user.operator or tenant_id in user.roles):
        return tenant_id
    for tenant_id in user.roles:
        if tenant_id in snapshot.tenants:
            return tenant_id
    raise errors.Forbidden(_("You belong to no tenant: name one in the header Serai-Tenant."))


def require(principal: Principal, permission: Permission) -> None:
    if not principal.may(permission):
        raise errors.Forbidden()


def resolve(principal: Principal, ref: str | None, snapshot: Snapshot) -> ModelEntry:
    """The model that `ref` means to this caller: an id, an own name or alias, an own adapter, then a public one."""
    if ref is None or ref == "default":
        ref = _default_ref(principal, ref, snapshot)
    model = _by_id(principal, ref, snapshot) or _by_name(principal, ref, snapshot)
    if model is None or not (model.adapter or _is_allowed(principal, model)):
        raise model_not_found(ref)
    return model


def _is_allowed(principal: Principal, model: ModelEntry) -> bool:
    return principal.models is None or model.id in principal.models


def model_not_found(ref: str) -> errors.ModelNotFound:
    name = ref[:200]
    message = format_lazy(_("The model '{name}' does not exist, or you have no access to it."), name=name)
    return errors.ModelNotFound(message, details={"model_id": name})


def _default_ref(principal: Principal, ref: str | None, snapshot: Snapshot) -> str:
    tenant = snapshot.tenants.get(principal.tenant_id)
    if tenant and tenant.default_model:
        return tenant.default_model
    raise errors.InvalidRequest(_("Name a model: your tenant has no default one."), param="model")


def _by_id(principal: Principal, ref: str, snapshot: Snapshot) -> ModelEntry | None:
    model = snapshot.models.get(ref)
    if model and (model.tenant_id == principal.tenant_id or model.public or principal.operator):
        return model
    return None


def _by_name(principal: Principal, ref: str, snapshot: Snapshot) -> ModelEntry | None:
    own = snapshot.names.get(principal.tenant_id)
    found = own.get(ref) if own else None
    return found or adapter_lookup.find(principal, ref, snapshot) or snapshot.public.get(ref)


def visible_models(principal: Principal, snapshot: Snapshot) -> list[ModelEntry]:
    """What the caller can name, adapters last; a public model behind an own one of the same name is left out."""
    models = snapshot.models.values()
    own = [model for model in models if model.tenant_id == principal.tenant_id]
    foreign = [model for model in models if model.public and model.tenant_id != principal.tenant_id]
    named = [model for model in own + foreign if _by_name(principal, model.name, snapshot) is model]
    return [model for model in named if _is_allowed(principal, model)] + adapter_lookup.visible(principal, snapshot)


def choose(
    model: ModelEntry,
    snapshot: Snapshot,
    inflight: Mapping[str, int],
    exclude: Collection[Run] = (),
    *,
    doubted: Collection[Run] = (),
    prefix: Callable[[], bytes | None] = lambda: None,
) -> InstanceEntry | None:
    """The replica that is to answer; None if none can serve.

    Those that are healthy and have not failed anybody lately go first. Among equals it is the one that has most likely
    seen this beginning of a prompt (`prefix`, asked for only where there is a choice), as long as its load is not far
    above the others'; else the one with the fewest requests in flight. `exclude` holds the runs (instance id,
    generation) that have just failed this very request, `doubted` those that failed any.
    """
    fit = [
        entry
        for entry in snapshot.of_model(model.id)
        if entry.serves(model) and (entry.id, entry.generation) not in exclude
    ]
    if len(fit) < 2:
        return fit[0] if fit else None
    trusted = [entry for entry in fit if entry.healthy and (entry.id, entry.generation) not in doubted]
    best = trusted or [entry for entry in fit if entry.healthy] or fit
    return best[0] if len(best) == 1 else replica_choice.pick(best, inflight, prefix())
