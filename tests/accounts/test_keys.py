"""API keys: made, shown once, limited, ended; and what does not pass for one."""

import hashlib
from datetime import timedelta

import pytest
from django.db import connection
from django.utils import timezone

from accounts import services
from accounts.models import ApiKey, AuditRecord, Role, Scope
from models_app.models import Model

KEYS = "/api/keys"
MODELS = "/api/models"  # any route for the scope `read`


def test_a_key_is_shown_once_and_kept_as_a_digest_only(api, owner):
    reply = api(owner).post(KEYS, {"name": "ci"})
    assert reply.status_code == 201
    assert reply.headers["Cache-Control"] == "no-store"
    made = reply.json()
    assert made["secret"].startswith("sk-serai-")
    assert made["scopes"] == ["read", "inference"]
    assert "secret" not in api(owner).get(f"{KEYS}/{made['id']}").json()
    row = ApiKey.objects.get(pk=made["id"])
    assert made["secret"] not in str(vars(row))
    assert bytes(row.digest) != hashlib.sha256(made["secret"].encode()).digest()
    assert api(made["secret"]).get(MODELS).status_code == 200


def test_a_key_is_taken_in_both_headers(api, key):
    secret = key()
    assert api(**{"X-API-Key": secret}).get(MODELS).status_code == 200
    assert api(authorization=f"bearer {secret}").get(MODELS).status_code == 200
    assert api(authorization=f"Basic {secret}").get(MODELS).status_code == 401


def test_making_and_ending_a_key_is_audited_without_the_secret(api, owner):
    made = api(owner).post(KEYS, {"name": "ci"}, REMOTE_ADDR="192.0.2.1").json()
    api(owner).delete(f"{KEYS}/{made['id']}")
    ended, begun = AuditRecord.objects.filter(object_id=made["id"])
    assert (begun.action, ended.action) == ("key.create", "key.revoke")
    assert (begun.user, begun.address, begun.tenant_id) == (owner, "192.0.2.1", owner.default_tenant_id)
    assert made["secret"] not in str(begun.details)


@pytest.mark.parametrize("how", ["delete", "post"])
def test_an_ended_key_stops_at_once(api, owner, how):
    made = api(owner).post(KEYS, {"name": "ci"}).json()
    path = f"{KEYS}/{made['id']}" if how == "delete" else f"{KEYS}/{made['id']}/revoke"
    assert getattr(api(owner), how)(path).status_code in (200, 204)
    assert api(made["secret"]).get(MODELS).status_code == 401


def test_an_expired_key_is_refused(api, key):
    assert api(key(expires_at=timezone.now() - timedelta(seconds=1))).get(MODELS).status_code == 401
    assert api(key(expires_at=timezone.now() + timedelta(hours=1))).get(MODELS).status_code == 200


def test_an_expiry_in_the_past_cannot_be_asked_for(api, owner):
    reply = api(owner).post(KEYS, {"name": "ci", "expires_at": "2020-01-01T00:00:00Z"})
    assert (reply.status_code, list(reply.json()["error"]["details"])) == (422, ["expires_at"])


def test_a_closed_tenants_keys_are_refused(api, key, tenant):
    secret = key()
    tenant.is_active = False
    tenant.save()
    assert api(secret).get(MODELS).status_code == 401


def test_a_key_ends_with_its_makers_account_and_membership(api, key, admin, owner):
    secret = key(maker=admin)
    services.remove_member(admin.memberships.get())
    assert api(secret).get(MODELS).status_code == 401
    other = key(maker=owner)
    owner.is_active = False
    owner.save()
    assert api(other).get(MODELS).status_code == 401


def test_a_key_loses_what_its_maker_loses(api, key, admin):
    secret = key(maker=admin, role=Role.ADMIN)
    assert api(secret).post(MODELS, {}).status_code == 422
    services.change_role(admin.memberships.get(), Role.VIEWER)
    assert api(secret).post(MODELS, {}).status_code == 403
    assert api(secret).get(MODELS).status_code == 200


def test_nobody_makes_a_key_above_his_own_role(api, admin, member):
    assert api(admin).post(KEYS, {"name": "x", "role": "owner"}).status_code == 403
    assert api(admin).post(KEYS, {"name": "x", "role": "admin"}).status_code == 201
    assert api(member).post(KEYS, {"name": "x", "role": "viewer"}).status_code == 403


def test_no_key_makes_keys_or_runs_the_platform(api, key, operator):
    for secret in (key(), key(maker=operator)):
        for path in (KEYS, "/api/members", "/api/audit", "/api/tenants", "/api/config"):
            assert api(secret).get(path).status_code == 403


def test_an_operators_key_sees_its_tenant_only(api, key, operator, stranger):
    Model.objects.create(tenant=stranger.default_tenant, name="theirs")
    assert api(key(maker=operator)).get(MODELS).json()["total"] == 0


def test_a_keys_tenant_cannot_be_changed_by_the_header(api, key, stranger):
    Model.objects.create(tenant=stranger.default_tenant, name="theirs")
    reply = api(key(), **{"Serai-Tenant": "evil"}).get(MODELS)
    assert reply.status_code == 200
    assert reply.json()["total"] == 0


@pytest.mark.parametrize(
    "field, value",
    [
        ("prefix", "sk-serai-mine"),
        ("created_by", "root"),
        ("tenant", "evil"),
        ("revoked_at", None),
        ("last_used_at", "2020-01-01T00:00:00Z"),
        ("id", "key-mine"),
    ],
)
def test_fields_that_are_not_the_callers_are_not_taken(api, owner, stranger, field, value):
    made = api(owner).post(KEYS, {"name": "x", field: value}).json()
    row = ApiKey.objects.get(pk=made["id"])
    assert (row.tenant, row.created_by) == (owner.default_tenant, owner)
    assert str(made.get(field)) != str(value) or value is None


@pytest.mark.parametrize("field", ["digest", "tenant_id", "secret", "requests_per_minute"])
def test_a_key_is_not_made_without_what_was_asked_for(api, owner, field):
    reply = api(owner).post(KEYS, {"name": "x", field: "3"})
    assert (reply.status_code, list(reply.json()["error"]["details"])) == (422, [field])
    assert ApiKey.objects.count() == 0


@pytest.mark.parametrize("scopes", [["all"], ["*"], "read", [["read"]], [None]])
def test_scopes_are_the_known_ones(api, owner, scopes):
    assert api(owner).post(KEYS, {"name": "x", "scopes": scopes}).status_code == 422


def test_allowed_models_are_ones_own_or_public_by_id_or_name(api, owner, stranger):
    own = Model.objects.create(tenant=owner.default_tenant, name="own")
    public = Model.objects.create(tenant=stranger.default_tenant, name="theirs", visibility="public")
    foreign = Model.objects.create(tenant=stranger.default_tenant, name="secret")
    made = api(owner).post(KEYS, {"name": "x", "allowed_models": ["own", public.pk]}).json()
    assert made["allowed_models"] == [own.pk, public.pk]
    for ref in (foreign.pk, "secret", "nothing"):
        reply = api(owner).post(KEYS, {"name": "x", "allowed_models": [ref]})
        assert (reply.status_code, list(reply.json()["error"]["details"])) == (422, ["allowed_models"])


def test_a_key_for_some_models_finds_no_other(api, owner, key):
    one, other = (Model.objects.create(tenant=owner.default_tenant, name=name) for name in ("one", "other"))
    client = api(key(allowed_models=[one.pk]))
    assert [item["id"] for item in client.get(MODELS).json()["items"]] == [one.pk]
    for reply in (
        client.get(f"{MODELS}/{other.pk}"),
        client.post(f"{MODELS}/other/start"),
        client.delete(f"{MODELS}/other"),
    ):
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "MODEL_NOT_FOUND")


def test_a_stranger_finds_no_key(api, owner, stranger):
    made = api(owner).post(KEYS, {"name": "x"}).json()
    for reply in (
        api(stranger).get(f"{KEYS}/{made['id']}"),
        api(stranger).delete(f"{KEYS}/{made['id']}"),
        api(stranger).post(f"{KEYS}/{made['id']}/revoke"),
        api(stranger).get(f"{KEYS}/key-missing"),
    ):
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "NOT_FOUND")
    assert api(stranger).get(KEYS).json()["total"] == 0
    assert api(made["secret"]).get(MODELS).status_code == 200


def test_the_last_use_is_noted(api, owner, key):
    secret = key()
    api(secret).get(MODELS)
    assert api(owner).get(KEYS).json()["items"][0]["last_used_at"] is not None


INJECTIONS = [
    "' OR '1'='1",
    "sk-serai-' OR 1=1 --",
    "sk-serai-%",
    "sk-serai-_",
    "sk-serai-' UNION SELECT digest FROM accounts_apikey --",
    "sk-serai-\\",
    "sk-serai-${jndi:ldap://x}",
    "sk-serai-{{7*7}}",
    "sk-serai-%00",
    "sk-serai-é",
    "sk-serai-\x7f",
    "sk-serai-",
    "null",
    "undefined",
    "None",
    "Bearer",
    "eyJ",
    "eyJ.eyJ.x",
    "..",
    "a.b.c",
    "sk-serai-" + "A" * 100_000,
    "A" * 100_000,
]


@pytest.mark.parametrize("credential", INJECTIONS, ids=lambda text: text[:24])
def test_what_is_no_credential_is_refused_alike(api, key, credential):
    key()
    for client in (api(authorization=f"Bearer {credential}"), api(**{"X-API-Key": credential})):
        reply = client.get(MODELS)
        assert (reply.status_code, reply.json()["error"]["code"]) == (401, "AUTHENTICATION_FAILED")


def test_a_key_that_is_nearly_right_is_refused(api, key):
    secret = key()
    for wrong in (secret[:-1], secret + "A", secret.swapcase(), secret.replace("sk-serai-", ""), secret[::-1]):
        assert api(wrong).get(MODELS).status_code == 401


def test_the_look_up_of_a_key_is_by_its_digest_alone(api, key, django_assert_max_num_queries):
    """So that no byte of the secret is compared where the time could be measured."""
    secret = key()
    with django_assert_max_num_queries(1) as captured:
        api("sk-serai-" + "x" * 43).get(MODELS)
    assert "digest" in captured.captured_queries[0]["sql"]
    assert secret not in str(connection.queries_log)


@pytest.mark.parametrize("scope, allowed", [(Scope.READ, 200), (Scope.INFERENCE, 403), (Scope.MONITORING, 403)])
def test_a_key_has_its_scopes_only(api, key, scope, allowed):
    assert api(key(scopes=[scope])).get(MODELS).status_code == allowed
