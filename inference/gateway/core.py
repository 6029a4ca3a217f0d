"""Decisions of the data plane, pure functions over a snapshot: who asks, for which model, who serves."""

import hmac
from collections.abc import Callable, Collection, Mapping

from django.utils.text import format_lazy
from django.utils.translation import gettext_lazy as _

from core import errors
from inference.gateway.snapshot import InstanceEntry, ModelEntry, Principal, Snapshot, UserEntry

BEARER = b"bearer "
JWT_START = b"eyJ"  # base64 of '{"'

Verify = Callable[[str], Mapping]


def credential(headers: Mapping[bytes, bytes]) -> bytes | None:
    """The API key or token that a request brings; Authorization goes before X-API-Key."""
    authorization = headers.get(b"authorization")
    if authorization is None:
        return headers.get(b"x-api-key")
    if authorization[:7].lower() != BEARER:
        raise errors.Unauthenticated()
    return authorization[7:].strip()


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

    `now` is in epoch seconds; `verify` returns a token's claims or raises Unauthenticated; `anonymous` is
    the slug of the tenant that callers without a credential act for.
    """
    secret = credential(headers)
    if not secret:
        return _anonymous(snapshot, anonymous)
    if secret.startswith(JWT_START):
        return _by_token(secret, headers.get(b"serai-tenant"), snapshot, verify)
    entry = snapshot.keys.get(hmac.digest(pepper, secret, "sha256"))
    if entry is None or (entry.expires_at is not None and entry.expires_at <= now):
        raise errors.Unauthenticated()
    return entry.principal


def _anonymous(snapshot: Snapshot, slug: str) -> Principal:
    tenant = snapshot.slugs.get(slug) if slug else None
    if tenant is None:
        raise errors.Unauthenticated()
    return Principal(tenant.id, "member", scopes=frozenset({"read", "inference"}))


def _by_token(token: bytes, wish: bytes | None, snapshot: Snapshot, verify: Verify) -> Principal:
    try:
        claims = verify(token.decode("ascii"))
    except UnicodeDecodeError:
        raise errors.Unauthenticated() from None
    user = snapshot.users.get(str(claims.get("user_id", "")))
    if user is None or str(claims.get("sid", "")) in snapshot.revoked_sessions:
        raise errors.Unauthenticated()
    tenant_id = _acting_tenant(user, wish, snapshot)
    return Principal(tenant_id, user.roles.get(tenant_id, ""), user_id=user.id, operator=user.operator)


def _acting_tenant(user: UserEntry, wish: bytes | None, snapshot: Snapshot) -> str:
    """The tenant named in the header if the user belongs to it (operators to all), else the default one."""
    if wish is None:
        tenant_id = user.default_tenant_id or next(iter(user.roles), None)
    else:
        named = wish.decode("latin-1")
        tenant = snapshot.tenants.get(named) or snapshot.slugs.get(named)
        tenant_id = tenant.id if tenant else None
    if tenant_id in snapshot.tenants and (user.operator or tenant_id in user.roles):
        return tenant_id
    raise errors.Forbidden()


def require(principal: Principal, *scopes: str, role: str = "member") -> None:
    """One of the scopes is enough."""
    if not any(principal.may(scope, role) for scope in scopes):
        raise errors.Forbidden()


def resolve(principal: Principal, ref: str | None, snapshot: Snapshot) -> ModelEntry:
    """The model that `ref` means to this caller: an id, an own name or alias, then a public one."""
    if ref is None or ref == "default":
        ref = _default_ref(principal, ref, snapshot)
    model = _by_id(principal, ref, snapshot) or _by_name(principal, ref, snapshot)
    if model is None or (principal.models is not None and model.id not in principal.models):
        raise model_not_found(ref)
    return model


def model_not_found(ref: str) -> errors.ModelNotFound:
    name = ref[:200]
    message = format_lazy(_("The model '{name}' does not exist, or you have no access to it."), name=name)
    return errors.ModelNotFound(message, param="model", details={"model_id": name})


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
    return (own.get(ref) if own else None) or snapshot.public.get(ref)


def visible_models(principal: Principal, snapshot: Snapshot) -> list[ModelEntry]:
    """What the caller can name; a public model behind an own one of the same name is left out."""
    models = snapshot.models.values()
    own = [model for model in models if model.tenant_id == principal.tenant_id]
    foreign = [model for model in models if model.public and model.tenant_id != principal.tenant_id]
    named = [model for model in own + foreign if _by_name(principal, model.name, snapshot) is model]
    return [model for model in named if principal.models is None or model.id in principal.models]


def choose(
    model: ModelEntry,
    snapshot: Snapshot,
    inflight: Mapping[str, int],
    exclude: Collection[tuple[str, int]] = (),
) -> InstanceEntry | None:
    """The replica with the fewest requests in flight, healthy ones first; None if none can serve.

    `exclude` holds (instance id, generation) of runs that have just failed this request.
    """
    best, best_load = None, None
    for entry in snapshot.of_model(model.id):
        if not entry.routable or (entry.id, entry.generation) in exclude:
            continue
        load = (not entry.healthy, inflight.get(entry.id, 0))
        if best_load is None or load < best_load:
            best, best_load = entry, load
    return best
