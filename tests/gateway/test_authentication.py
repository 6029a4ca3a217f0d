"""Who calls: keys, tokens, the header Serai-Tenant and callers without a credential, decided over a snapshot."""

from dataclasses import replace

import pytest

from accounts.models import Scope
from accounts.policy import Permission
from accounts.tokens import Claims
from core import errors
from gateway.routing import authentication
from gateway.routing.snapshot import RoutingSnapshot, UserEntry
from tests.support.gateway_server import ALICE, PEPPER, TENANTS, key, snapshot

NOW = 1_800_000_000.0
WORLD = snapshot(
    users=[
        UserEntry("user-1", roles={"tenant-a": "member", "tenant-m": "viewer"}),
        UserEntry("user-2", operator=True, default_tenant_id="tenant-m"),
        UserEntry("user-3"),
        UserEntry("user-4", default_tenant_id="tenant-m", roles={"tenant-a": "viewer"}),
    ],
)


def verify(token: str) -> Claims:
    if not token.startswith("user-"):
        raise errors.Unauthenticated()
    return Claims(token, "session-1", NOW + 60)


def enter(world: RoutingSnapshot = WORLD, now: float = NOW, anonymous: str = "", **headers):
    raw = {name.replace("_", "-").encode(): value.encode("latin-1") for name, value in headers.items()}
    return authentication.authenticate(raw, world, now, pepper=PEPPER, verify=verify, anonymous=anonymous)


@pytest.mark.parametrize("headers", [{"authorization": f"Bearer {ALICE}"}, {"authorization": f"bearer  {ALICE}"},
                                     {"x_api_key": ALICE}])  # fmt: skip
def test_a_key_acts_for_its_tenant_in_either_header(headers):
    principal = enter(**headers)
    assert (principal.tenant_id, principal.key_id, principal.user_id) == ("tenant-a", f"key-{ALICE}", None)


@pytest.mark.parametrize(
    "headers",
    [{}, {"authorization": ""}, {"authorization": "Bearer "}, {"authorization": f"Basic {ALICE}"},
     {"authorization": ALICE}, {"authorization": f"Bearer {ALICE}x"}, {"authorization": f"Bearer {ALICE[:-1]}"},
     {"authorization": "Bearer ' OR '1'='1"}, {"authorization": "Bearer " + "x" * 5000}, {"x_api_key": "é"},
     {"authorization": "Bearer eyJ.not.valid"}, {"x_api_key": ""}],
)  # fmt: skip
def test_anything_else_is_nobody(headers):
    with pytest.raises(errors.Unauthenticated):
        enter(**headers)


def test_a_key_ends_with_its_expiry():
    digest, entry = key(ALICE, "tenant-a")
    world = snapshot(keys=[(digest, replace(entry, expires_at=NOW))])
    assert enter(world, NOW - 1, x_api_key=ALICE)
    with pytest.raises(errors.Unauthenticated):
        enter(world, NOW, x_api_key=ALICE)


def test_a_person_acts_for_the_oldest_membership_or_the_named_one():
    assert enter(authorization="Bearer user-1").tenant_id == "tenant-a"
    for name in ("mall", "tenant-m"):
        principal = enter(authorization="Bearer user-1", serai_tenant=name)
        assert (principal.tenant_id, principal.role) == ("tenant-m", "viewer")
    for foreign in ("nowhere", "acme"):
        with pytest.raises(errors.NotFound):
            enter(snapshot(users=[UserEntry("user-9", roles={"tenant-m": "owner"})]),
                  authorization="Bearer user-9", serai_tenant=foreign)  # fmt: skip


def test_a_default_tenant_counts_only_with_a_membership_unless_for_operators():
    assert enter(authorization="Bearer user-4").tenant_id == "tenant-a"
    assert enter(authorization="Bearer user-2").tenant_id == "tenant-m"
    assert enter(authorization="Bearer user-2", serai_tenant="acme").may(Permission.INFER)
    with pytest.raises(errors.Forbidden):
        enter(authorization="Bearer user-3")


def test_a_token_ends_with_its_session_and_its_user():
    with pytest.raises(errors.Unauthenticated):
        enter(RoutingSnapshot(tenants=TENANTS, users=[UserEntry("user-1")], revoked_sessions=["session-1"]),
              authorization="Bearer user-1")  # fmt: skip
    with pytest.raises(errors.Unauthenticated):
        enter(authorization="Bearer user-99")


def test_strangers_are_let_in_only_where_the_operator_says_so():
    principal = enter(anonymous="acme")
    assert principal.tenant_id == "tenant-a"
    assert principal.may(Permission.INFER)
    assert not principal.may(Permission.MANAGE_MODELS)
    with pytest.raises(errors.Unauthenticated):
        enter(anonymous="nowhere")
    with pytest.raises(errors.Unauthenticated):
        enter(anonymous="acme", x_api_key="sk-serai-wrong")


@pytest.mark.parametrize(
    ("role", "scopes", "allowed"),
    [("member", {Scope.INFERENCE}, True), ("owner", {Scope.READ}, False), ("viewer", {Scope.INFERENCE}, False),
     ("member", set(), False), (None, {Scope.INFERENCE}, False)],
)  # fmt: skip
def test_a_key_infers_with_the_scope_and_a_members_role(role, scopes, allowed):
    principal = replace(key(ALICE, "tenant-a")[1].caller, role=role, scopes=frozenset(scopes))
    assert principal.may(Permission.INFER) is allowed
