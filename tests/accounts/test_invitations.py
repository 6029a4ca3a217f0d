"""Invitations: made by admins, accepted once by whoever is meant, with a new account or the own one."""

from datetime import timedelta

import pytest
from django.conf import settings
from django.test import Client
from django.utils import timezone

from accounts import invitations, services
from accounts.models import AuditRecord, Invitation, Role, User
from tests.support.user_fixtures import person

INVITATIONS, ACCEPT, MEMBERS = "/api/invitations", "/api/invitations/accept", "/api/members"
PASSWORD = "correct horse battery staple"
NEWCOMER = {"username": "nina", "password": PASSWORD}


@pytest.fixture
def invite(api, admin):
    """invite(role=…, username=…) returns the reply's body."""

    def make(who: User = admin, **fields) -> dict:
        reply = api(who).post(INVITATIONS, fields)
        assert reply.status_code == 201, reply.json()
        return reply.json()

    return make


def is_used_up(api, token: str) -> bool:
    reply = api().post(ACCEPT, {"token": token, "username": "ulf", "password": PASSWORD})
    return reply.status_code == 404 and not User.objects.filter(username="ulf").exists()


def test_a_newcomer_gets_an_account_and_joins_once(api, invite, tenant):
    token = invite(role="viewer")["token"]
    reply = api().post(ACCEPT, {"token": token, **NEWCOMER})
    joined = {"id": tenant.pk, "slug": "acme", "name": "Acme", "role": "viewer"}
    assert (reply.status_code, reply.json()) == (201, {"username": "nina", "tenant": joined})
    made = User.objects.get(username="nina")
    assert (made.default_tenant, made.is_staff, made.memberships.get().role) == (tenant, False, Role.VIEWER)
    assert api().post("/api/auth/token", NEWCOMER).status_code == 200
    assert is_used_up(api, token)
    assert list(AuditRecord.objects.values_list("action", "actor")) == [
        ("invitation.accept", "nina"),
        ("invitation.create", "ada"),
    ]


def test_the_link_is_shown_once_and_kept_as_a_digest_only(api, admin, invite):
    made = invite(role="member")
    assert made["link"] == f"{settings.BASE_URL}/console/join/{made['token']}"
    (listed,) = api(admin).get(INVITATIONS).json()["items"]
    assert listed == {name: value for name, value in made.items() if name not in ("token", "link")}
    assert made["token"] not in str(vars(Invitation.objects.get()))
    assert made["token"] not in str(list(AuditRecord.objects.values()))


def test_who_has_an_account_accepts_while_logged_in(api, invite, stranger):
    token = invite(role="member")["token"]
    assert api(stranger).post(ACCEPT, {"token": token}).status_code == 201
    assert api(stranger, **{"Serai-Tenant": "acme"}).get("/api/me").json()["tenant"] == "acme"
    assert api(stranger).get("/api/me").json()["tenant"] == "evil"
    assert is_used_up(api, token)


def test_an_invitation_of_a_name_is_for_that_person_only(api, invite, stranger, viewer):
    token = invite(username=stranger.username)["token"]
    for reply in (
        api(person("ivo", None, None)).post(ACCEPT, {"token": token}),
        api().post(ACCEPT, {"token": token, **NEWCOMER}),
    ):
        assert (reply.status_code, list(reply.json()["error"]["details"])) == (422, ["username"])
    assert api(stranger).post(ACCEPT, {"token": token}).status_code == 201
    new = invite(username="nina")["token"]
    assert api().post(ACCEPT, {"token": new, **NEWCOMER}).status_code == 201


def test_a_member_needs_no_invitation_and_uses_none_up(api, admin, invite, viewer):
    reply = api(admin).post(INVITATIONS, {"username": viewer.username})
    assert (reply.status_code, reply.json()["error"]["code"]) == (409, "CONFLICT")
    token = invite()["token"]
    assert api(viewer).post(ACCEPT, {"token": token}).status_code == 409
    assert not is_used_up(api, token)


def test_members_are_invited_with_one_reply_for_known_and_unknown_names(api, admin, stranger, operator):
    """Else an admin would learn who has an account here, and could add people who never agreed."""
    for username in (stranger.username, operator.username, "nobody-yet"):
        reply = api(admin).post(MEMBERS, {"username": username, "role": "viewer"})
        assert reply.status_code == 201
        body = reply.json()
        invitation = body.pop("invitation")
        expected = {"id": None, "tenant": admin.default_tenant_id, "username": username, "email": ""}
        assert body == {**expected, "role": "viewer", "created_at": None}
        assert set(invitation) == {*expected, "role", "created_at", "created_by", "expires_at", "token", "link"} - {
            "email"
        }
    assert api(admin).get(MEMBERS).json()["total"] == 1


def test_an_operator_invites_whom_he_does_not_know(api, operator, tenant):
    reply = api(operator, **{"Serai-Tenant": "acme"}).post(MEMBERS, {"username": "nina", "role": "owner"})
    token = reply.json()["invitation"]["token"]
    assert api().post(ACCEPT, {"token": token, **NEWCOMER}).json()["tenant"]["role"] == "owner"


def test_roles_go_up_to_ones_own(api, admin, owner, member):
    assert api(admin).post(INVITATIONS, {"role": "owner"}).status_code == 403
    assert api(admin).post(MEMBERS, {"username": "nina", "role": "owner"}).status_code == 403
    assert api(owner).post(INVITATIONS, {"role": "owner"}).status_code == 201
    assert api(member).post(INVITATIONS, {"role": "viewer"}).status_code == 403
    made = Invitation.objects.get()
    assert api(admin).delete(f"{INVITATIONS}/{made.pk}").status_code == 403


@pytest.mark.parametrize("loss", ["demoted", "removed", "disabled", "deleted", "tenant closed"])
def test_an_invitation_is_worth_no_more_than_its_maker_is_today(api, admin, invite, tenant, loss):
    token = invite(role="admin")["token"]
    if loss == "demoted":
        services.change_role(admin.memberships.get(), Role.MEMBER)
    elif loss == "removed":
        services.remove_member(admin.memberships.get())
    elif loss == "disabled":
        User.objects.filter(pk=admin.pk).update(is_active=False)
    elif loss == "deleted":
        admin.delete()
    else:
        tenant.is_active = False
        tenant.save()
    assert is_used_up(api, token)


def test_it_ends_after_seven_days_or_when_it_is_withdrawn(api, admin, invite):
    old, withdrawn = invite(), invite()
    assert "2" in old["expires_at"] and timedelta(days=7) == invitations.LIFETIME
    Invitation.objects.filter(pk=old["id"]).update(expires_at=timezone.now() - timedelta(seconds=1))
    assert api(admin).delete(f"{INVITATIONS}/{withdrawn['id']}").status_code == 200
    assert api(admin).delete(f"{INVITATIONS}/{old['id']}").status_code == 404
    for token in (old["token"], withdrawn["token"], "invented", "\u00e9"):
        assert is_used_up(api, token)
    assert api(admin).get(INVITATIONS).json()["total"] == 0


def test_a_second_invitation_of_a_name_replaces_the_first(api, admin, invite):
    first, second = invite(username="nina"), invite(username="nina", role="viewer")
    assert [item["id"] for item in api(admin).get(INVITATIONS).json()["items"]] == [second["id"]]
    assert api().post(ACCEPT, {"token": first["token"], **NEWCOMER}).status_code == 404


def test_an_admin_replaces_no_invitation_of_a_higher_role(api, owner, admin, invite):
    invite(owner, username="nina", role="owner")
    assert api(admin).post(INVITATIONS, {"username": "nina", "role": "viewer"}).status_code == 403


def test_open_invitations_are_bounded_for_each_tenant(api, admin, stranger, monkeypatch):
    monkeypatch.setattr(invitations, "MAX_OPEN", 2)
    replies = [api(admin).post(INVITATIONS, {}) for _time in range(3)]
    assert [reply.status_code for reply in replies] == [201, 201, 409]
    assert api(stranger).post(INVITATIONS, {}).status_code == 201
    Invitation.objects.filter(created_by=admin).update(expires_at=timezone.now())
    assert api(admin).post(INVITATIONS, {}).status_code == 201


def test_a_stranger_sees_and_withdraws_none(api, invite, stranger):
    made = invite()
    assert api(stranger).get(INVITATIONS).json()["total"] == 0
    replies = [api(stranger).delete(f"{INVITATIONS}/{pk}") for pk in (made["id"], "invitation-missing")]
    assert [(reply.status_code, reply.json()["error"]["code"]) for reply in replies] == [(404, "NOT_FOUND")] * 2


@pytest.mark.parametrize(
    "fields, named",
    [
        ({}, ["password", "username"]),
        ({"username": "nina"}, ["password"]),
        ({"username": "nina", "password": "short"}, ["password"]),
        ({"username": "nina-nina", "password": "nina-nina"}, ["password"]),
        ({"username": "two words", "password": PASSWORD}, ["username"]),
        ({"username": "olivia", "password": PASSWORD}, ["username"]),
        ({**NEWCOMER, "is_staff": True}, ["is_staff"]),
        ({**NEWCOMER, "role": "owner"}, ["role"]),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_by_field_and_uses_nothing_up(api, owner, invite, fields, named):
    token = invite()["token"]
    reply = api().post(ACCEPT, {"token": token, **fields})
    assert (reply.status_code, sorted(reply.json()["error"]["details"])) == (422, named)
    assert not User.objects.filter(username__startswith="nina").exists()
    assert not is_used_up(api, token)


def test_a_key_or_a_surplus_field_accepts_nothing(api, key, invite, stranger):
    token = invite()["token"]
    assert api(key(maker=stranger, tenant=stranger.default_tenant)).post(ACCEPT, {"token": token}).status_code == 403
    reply = api(stranger).post(ACCEPT, {"token": token, "password": PASSWORD})
    assert (reply.status_code, list(reply.json()["error"]["details"])) == (422, ["password"])
    assert api("sk-serai-wrong").post(ACCEPT, {"token": token, **NEWCOMER}).status_code == 401
    assert not is_used_up(api, token)


def test_the_link_opens_a_page_for_newcomers(api, invite):
    made = invite(role="viewer", username="nina")
    path = f"/console/join/{made['token']}"
    for method in ("get", "head", "options"):
        getattr(Client(), method)(path)
    page = Client().get(path).content.decode()
    assert "Acme" in page and 'value="nina"' in page and "readonly" in page
    short = Client().post(path, {"username": "nina", "password": "short"})
    assert short.status_code == 422 and "too short" in short.content.decode()
    assert "nina belongs to Acme now" in Client().post(path, NEWCOMER).content.decode()
    assert api().post("/api/auth/token", NEWCOMER).status_code == 200
    assert [Client().get(path).status_code, Client().post(path, NEWCOMER).status_code] == [410, 410]


def test_on_the_page_an_account_joins_with_its_own_password_only(api, invite, stranger):
    stranger.set_password(PASSWORD)
    stranger.save()
    path = f"/console/join/{invite()['token']}"
    wrong = Client().post(path, {"username": stranger.username, "password": "wrong"})
    assert wrong.status_code == 422 and "the password is not its own" in wrong.content.decode()
    assert Client().post(path, {"username": stranger.username, "password": PASSWORD}).status_code == 200
    assert stranger.memberships.count() == 2


def test_the_page_is_no_way_around_the_pause_after_failed_log_ins(invite, stranger):
    path = f"/console/join/{invite()['token']}"
    for _attempt in range(settings.AXES_FAILURE_LIMIT):
        reply = Client().post(path, {"username": stranger.username, "password": "wrong"})
    assert reply.status_code == 429
    assert Client().post("/console/join/invented", {"username": "x", "password": "y"}).status_code == 410


def test_the_page_needs_the_token_it_comes_with(invite):
    """A foreign page that posts the form would let its victim's browser accept an attacker's invitation."""
    browser = Client(enforce_csrf_checks=True)
    assert browser.post(f"/console/join/{invite()['token']}", NEWCOMER).status_code == 403
