"""What everybody does for himself: profile, password, own keys."""

from datetime import timedelta

import pytest
from django.conf import settings
from django.test import Client
from django.utils import timezone

from accounts import services, tokens
from accounts.models import ApiKey, AuditRecord, Membership, Role
from models_app.models import Model
from tests.support.user_fixtures import person

ME, PASSWORD, KEYS = "/api/me", "/api/me/password", "/api/me/keys"
OLD, NEW = "correct horse battery staple", "a longer horse with a battery"
MODELS = "/api/models"  # any route for the scope `read`


@pytest.fixture
def person_with_password(member):
    member.set_password(OLD)
    member.save()
    return member


def test_everybody_sees_who_he_is_and_where_he_belongs(api, member, stranger, operator):
    Membership.objects.create(user=member, tenant=stranger.default_tenant, role=Role.VIEWER)
    seen = api(member).get(ME).json()
    assert (seen["username"], seen["tenant"], seen["is_operator"]) == ("max", "acme", False)
    assert [(each["slug"], each["role"]) for each in seen["tenants"]] == [("acme", "member"), ("evil", "viewer")]
    assert api(member, **{"Serai-Tenant": "evil"}).get(ME).json()["tenant"] == "evil"
    alone = api(operator).get(ME).json()
    assert (alone["tenant"], alone["tenants"], alone["is_operator"]) == (None, [], True)


def test_who_belongs_nowhere_still_has_an_account_but_no_key(api, db):
    nobody = person("nora", None, None)
    assert api(nobody).get(ME).json()["tenants"] == []
    reply = api(nobody).post(KEYS, {"name": "x"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (403, "AUTHORIZATION_FAILED")


def test_name_and_language_can_be_changed_and_the_reply_sent_back(api, member):
    changed = api(member).patch(ME, {"name": "Max M.", "language": "zh-Hans"})
    assert (changed.json()["name"], changed.json()["language"]) == ("Max M.", "zh-Hans")
    assert api(member).patch(ME, changed.json()).json() == changed.json()
    assert api(member).patch(ME, {"language": ""}).json()["language"] == ""


@pytest.mark.parametrize("field", ["username", "email", "is_operator", "id", "tenant", "tenants"])
def test_what_is_not_his_to_change_stays(api, member, field):
    before = api(member).get(ME).json()
    assert api(member).patch(ME, {field: "evil"}).json() == before


@pytest.mark.parametrize("body", [{"is_staff": True}, {"password": NEW}, {"language": "tlh"}, {"name": "x" * 151}])
def test_an_unknown_field_or_value_is_refused_by_name(api, member, body):
    reply = api(member).patch(ME, body)
    assert (reply.status_code, list(reply.json()["error"]["details"])) == (422, list(body))


def test_the_own_language_is_spoken_where_the_client_names_none(api, member, key):
    api(member).patch(ME, {"language": "zh-Hans"})
    assert api(member).get(f"{MODELS}/nothing").json()["message"] == "指定的模型不存在"
    english = api(member, **{"Accept-Language": "en"}).get(f"{MODELS}/nothing").json()
    assert english["message"] == "The model does not exist."
    assert api(key(maker=member)).get(f"{MODELS}/nothing").json()["message"] == "The model does not exist."


def test_the_console_speaks_the_own_language_whatever_the_browser_asks(operator):
    browser = Client(headers={"Accept-Language": "en"})
    browser.force_login(operator, backend="django.contrib.auth.backends.ModelBackend")
    assert "API 密钥" not in browser.get("/console/").content.decode()
    operator.language = "zh-Hans"
    operator.save()
    assert "API 密钥" in browser.get("/console/").content.decode()


def test_a_new_password_ends_the_other_log_ins_and_not_this_one(api, person_with_password, viewer):
    this, other, neighbour = api(person_with_password), api(person_with_password), api(viewer)
    refresh = tokens.open_session(person_with_password)["refresh_token"]
    assert this.post(PASSWORD, {"old": OLD, "new": NEW}).status_code == 200
    assert (this.get(ME).status_code, neighbour.get(ME).status_code, other.get(ME).status_code) == (200, 200, 401)
    assert api().post("/api/auth/token/refresh", {"refresh_token": refresh}).status_code == 401
    for password, status in ((OLD, 401), (NEW, 200)):
        body = {"username": person_with_password.username, "password": password}
        assert api().post("/api/auth/token", body).status_code == status
    record = AuditRecord.objects.get(action="account.password")
    assert record.user == person_with_password and NEW not in str(record.details)


def test_a_console_log_in_survives_its_own_change_of_password(api, operator):
    operator.set_password(OLD)
    operator.save()
    browser, other = Client(), Client()
    for each in (browser, other):
        each.force_login(operator, backend="django.contrib.auth.backends.ModelBackend")
    body = {"old": OLD, "new": NEW}
    assert browser.post(PASSWORD, body, content_type="application/json").status_code == 200
    assert browser.get(ME).status_code == 200
    assert other.get(ME).status_code == 401


@pytest.mark.parametrize(
    "body, field",
    [
        ({"old": "wrong", "new": NEW}, "old"),
        ({"old": OLD, "new": "short"}, "new"),
        ({"old": OLD, "new": "qwertyuiop"}, "new"),
        ({"old": OLD}, "new"),
        ({"new": NEW}, "old"),
        ({"old": OLD, "new": NEW, "username": "olivia"}, "username"),
    ],
    ids=str,
)
def test_a_password_that_cannot_be_is_refused_by_field_and_changes_nothing(api, person_with_password, body, field):
    client, other = api(person_with_password), api(person_with_password)
    reply = client.post(PASSWORD, body)
    assert (reply.status_code, list(reply.json()["error"]["details"])) == (422, [field])
    assert other.get(ME).status_code == 200
    person_with_password.refresh_from_db()
    assert person_with_password.check_password(OLD)


def test_guesses_of_the_old_password_are_counted_as_failed_log_ins(api, person_with_password):
    client = api(person_with_password)
    for _attempt in range(settings.AXES_FAILURE_LIMIT):
        client.post(PASSWORD, {"old": "wrong", "new": NEW})
    reply = client.post(PASSWORD, {"old": OLD, "new": NEW})
    assert (reply.status_code, reply.json()["error"]["code"]) == (429, "RATE_LIMITED")


@pytest.mark.parametrize("role", [Role.VIEWER, Role.MEMBER, Role.ADMIN, Role.OWNER])
def test_everybody_makes_a_key_that_works_and_is_shown_once(api, tenant, role):
    user = person("piet", tenant, role)
    reply = api(user).post(KEYS, {"name": "mine"})
    assert reply.status_code == 201 and reply.headers["Cache-Control"] == "no-store"
    made = reply.json()
    expected = (["read"], "viewer") if role == Role.VIEWER else (["read", "inference"], "member")
    assert (made["scopes"], made["role"]) == expected
    assert api(made["secret"]).get(MODELS).status_code == 200
    assert [(each["id"], "secret" in each) for each in api(user).get(KEYS).json()["items"]] == [(made["id"], False)]
    assert api(made["secret"]).get(KEYS).status_code == 403


@pytest.mark.parametrize(
    "role, allowed",
    [
        (Role.VIEWER, {"read"}),
        (Role.MEMBER, {"read", "inference", "training", "models"}),
        (Role.ADMIN, {"read", "inference", "training", "models", "monitoring"}),
    ],
)
def test_own_keys_stay_within_the_own_role(api, tenant, role, allowed):
    client = api(person("piet", tenant, role))
    scopes = {"read", "inference", "training", "models", "monitoring", "metrics"}
    given = {scope for scope in scopes if client.post(KEYS, {"name": "x", "scopes": [scope]}).status_code == 201}
    assert given == allowed
    assert client.post(KEYS, {"name": "x", "role": "owner"}).status_code == 403
    refused = client.post(KEYS, {"name": "x", "scopes": ["metrics"]})
    assert (refused.status_code, list(refused.json()["error"]["details"])) == (403, ["scopes"])


def test_an_own_key_takes_ones_models_and_no_unknown_field(api, member, stranger):
    own = Model.objects.create(tenant=member.default_tenant, name="own")
    Model.objects.create(tenant=stranger.default_tenant, name="theirs")
    made = api(member).post(KEYS, {"name": "x", "allowed_models": ["own"]}).json()
    assert made["allowed_models"] == [own.pk]
    for body in ({"allowed_models": ["theirs"]}, {"requests": 3}, {"expires_at": "2020-01-01T00:00:00Z"}):
        reply = api(member).post(KEYS, {"name": "x", **body})
        assert (reply.status_code, list(reply.json()["error"]["details"])) == (422, list(body))


def test_own_keys_are_bounded_and_ended_ones_do_not_count(api, member, viewer):
    last = [services.issue_key(member.default_tenant, name="x", maker=member)[0] for _key in range(50)][-1]
    reply = api(member).post(KEYS, {"name": "x"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (409, "CONFLICT")
    assert api(viewer).post(KEYS, {"name": "x"}).status_code == 201
    assert api(member).delete(f"{KEYS}/{last.pk}").status_code == 200
    assert api(member).post(KEYS, {"name": "x"}).status_code == 201
    ApiKey.objects.filter(created_by=member).update(expires_at=timezone.now() - timedelta(seconds=1))
    assert api(member).post(KEYS, {"name": "x"}).status_code == 201


def test_nobody_sees_or_ends_a_key_of_somebody_else(api, owner, member, stranger):
    made = api(member).post(KEYS, {"name": "mine"}).json()
    for other in (owner, stranger):
        assert api(other).get(KEYS).json()["total"] == 0
        replies = [api(other).delete(f"{KEYS}/{pk}") for pk in (made["id"], "key-missing")]
        assert [(reply.status_code, reply.json()["error"]["code"]) for reply in replies] == [(404, "NOT_FOUND")] * 2
    assert api(made["secret"]).get(MODELS).status_code == 200
    assert api(member).delete(f"{KEYS}/{made['id']}").status_code == 200
    assert api(made["secret"]).get(MODELS).status_code == 401
    ended, begun = AuditRecord.objects.filter(object_id=made["id"])
    assert (begun.action, ended.action, begun.user) == ("key.create", "key.revoke", member)
