"""One-time links for a new password: by operators for all, by admins for accounts of their tenant alone."""

import re
from datetime import timedelta

import pytest
from django.conf import settings
from django.test import Client
from django.utils import timezone

from accounts import services
from accounts.models import AuditRecord, Membership, OneTimeLink, Role, User

PASSWORD = "correct horse battery staple"


def reset(client, user: User, tenant=None):
    membership = Membership.objects.filter(user=user, **({"tenant": tenant} if tenant else {})).first()
    return client.post(f"/api/members/{membership.pk}/reset")


def path_of(reply) -> str:
    assert reply.status_code == 201, reply.json()
    return reply.json()["link"].removeprefix(settings.BASE_URL)


def logs_in(api, user: User) -> bool:
    return api().post("/api/auth/token", {"username": user.username, "password": PASSWORD}).status_code == 200


def test_an_admin_gives_a_member_a_link_that_sets_a_password_once(api, admin, member):
    client = api(member)
    reply = reset(api(admin), member)
    path = path_of(reply)
    assert re.fullmatch(r"/console/reset/[\w-]{43}", path) and reply.headers["Cache-Control"] == "no-store"
    assert reply.json()["expires_in"] == 12 * 3600
    assert member.username in Client().get(path).content.decode()
    assert Client().post(path, {"password": PASSWORD}).status_code == 200
    assert logs_in(api, member)
    assert client.get("/api/me").status_code == 401
    assert [Client().get(path).status_code, Client().post(path, {"password": PASSWORD}).status_code] == [410, 410]
    used, made = AuditRecord.objects.order_by("-pk")
    assert (made.action, made.user, used.action, used.user) == ("member.reset", admin, "account.password", member)


def test_a_weak_password_uses_nothing_up(api, admin, member):
    path = path_of(reset(api(admin), member))
    weak = Client().post(path, {"password": "short"})
    assert weak.status_code == 422 and "too short" in weak.content.decode()
    assert Client().post(path, {"password": PASSWORD}).status_code == 200


def test_the_link_ends_the_pause_after_failed_log_ins(api, admin, member):
    for _attempt in range(settings.AXES_FAILURE_LIMIT):
        api().post("/api/auth/token", {"username": member.username, "password": "wrong"})
    assert not logs_in(api, member)
    Client().post(path_of(reset(api(admin), member)), {"password": PASSWORD})
    assert logs_in(api, member)


def test_an_admin_reaches_nobody_who_is_more_than_a_member_of_his_tenant(api, admin, owner, member, stranger, tenant):
    """Each answers as a missing member does."""
    both = Membership.objects.create(tenant=tenant, user=stranger, role=Role.VIEWER)
    User.objects.filter(pk=member.pk).update(is_staff=True)
    missing = api(admin).post("/api/members/999999/reset").json()["error"]
    for user in (owner, member, both.user):
        reply = reset(api(admin), user, tenant)
        assert (reply.status_code, reply.json()["error"]) == (404, missing)
    foreign = reset(api(admin), stranger, stranger.default_tenant)
    assert (foreign.status_code, foreign.json()["error"]) == (404, missing)
    assert OneTimeLink.objects.count() == 0


def test_an_operator_reaches_everybody_else_and_nobody_resets_himself(api, operator, owner, admin, stranger):
    for user in (owner, admin, stranger):
        Client().post(path_of(reset(api(operator), user)), {"password": PASSWORD})
        assert logs_in(api, user)
    own = reset(api(owner), owner)
    assert (own.status_code, own.json()["error"]["code"]) == (409, "CONFLICT")
    assert "/api/me/password" in own.json()["message"]


@pytest.mark.parametrize("change", ["joined another tenant", "became an operator", "left", "was disabled"])
def test_a_link_is_worth_nothing_once_the_account_is_more_than_it_was(api, admin, member, stranger, change):
    """Else an admin would keep a link until the person can do more elsewhere."""
    path = path_of(reset(api(admin), member))
    if change == "joined another tenant":
        services.add_member(stranger.default_tenant, member, Role.VIEWER)
    elif change == "left":
        services.remove_member(member.memberships.get())
    else:
        fields = {"is_staff": True} if change == "became an operator" else {"is_active": False}
        User.objects.filter(pk=member.pk).update(**fields)
    assert Client().post(path, {"password": PASSWORD}).status_code == 410


def test_a_second_link_replaces_the_first_and_both_are_no_log_in(api, admin, member):
    first, second = (path_of(reset(api(admin), member)) for _time in range(2))
    assert Client().get(first).status_code == 410
    for path in (second, f"/console/reset/{services.one_time_link(member)}"):
        token = path.rpartition("/")[2]
        assert Client().post(f"/console/enter/{token}").status_code == (410 if path == second else 302)
    OneTimeLink.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    assert Client().get(second).status_code == 410


def test_a_log_in_link_sets_no_password(operator):
    path = f"/console/reset/{services.one_time_link(operator)}"
    assert Client().post(path, {"password": PASSWORD}).status_code == 410


def test_the_database_holds_no_link_and_the_page_needs_its_token(api, admin, member):
    path = path_of(reset(api(admin), member))
    assert path.rpartition("/")[2].encode() not in bytes(OneTimeLink.objects.get().digest)
    assert Client(enforce_csrf_checks=True).post(path, {"password": PASSWORD}).status_code == 403
