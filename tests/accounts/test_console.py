"""The operators' console: the ways in, and that what is done there is kept in the audit log."""

import re
from datetime import timedelta

import pytest
from django.conf import settings
from django.contrib import admin
from django.test import Client
from django.utils import timezone

from accounts import services
from accounts.models import ApiKey, AuditRecord, OneTimeLink, Tenant, User

PASSWORD = "correct horse battery staple"
HOME = "/console/"


@pytest.fixture
def console(operator, client):
    client.force_login(operator, backend="django.contrib.auth.backends.ModelBackend")
    return client


def is_in(client) -> bool:
    return client.get(HOME).status_code == 200


def test_a_link_logs_in_once(operator, client):
    path = f"/console/enter/{services.one_time_link(operator)}"
    assert client.get(path).status_code == 200
    assert client.post(path).headers["Location"] == HOME
    assert is_in(client)
    late = Client()
    assert late.post(path).status_code == 410
    assert not is_in(late)


def test_looking_at_a_link_uses_nothing_up(operator, client):
    path = f"/console/enter/{services.one_time_link(operator)}"
    for method in ("get", "head", "options"):
        getattr(Client(), method)(path)
    client.post(path)
    assert is_in(client)


def test_a_link_needs_the_page_it_comes_with(operator):
    """A foreign page that posts the form would log its victim into the attacker's account."""
    browser = Client(enforce_csrf_checks=True)
    path = f"/console/enter/{services.one_time_link(operator)}"
    assert browser.post(path).status_code == 403
    page = browser.get(path)
    assert browser.post(path, {"csrfmiddlewaretoken": page.context["csrf_token"]}).status_code == 302


def test_an_old_or_invented_link_is_worth_nothing(operator, client):
    old = services.one_time_link(operator)
    OneTimeLink.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    for token in (old, "invented", "x" * 5000):
        assert client.post(f"/console/enter/{token}").status_code == 410
    assert not is_in(client)


def test_a_disabled_persons_link_is_worth_nothing(operator, client):
    path = f"/console/enter/{services.one_time_link(operator)}"
    operator.is_active = False
    operator.save()
    assert client.post(path).status_code == 410


def test_the_database_holds_no_link(operator):
    token = services.one_time_link(operator)
    assert token.encode() not in bytes(OneTimeLink.objects.get().digest)


def test_operators_log_in_with_their_password_and_members_do_not(operator, owner, client):
    for user in (operator, owner):
        user.set_password(PASSWORD)
        user.save()
    client.post("/console/login/", {"username": owner.username, "password": PASSWORD})
    assert not is_in(client)
    client.post("/console/login/", {"username": operator.username, "password": PASSWORD})
    assert is_in(client)


def test_too_many_failures_show_a_page_that_says_how_long(operator, client):
    body = {"username": operator.username, "password": "wrong"}
    for _attempt in range(settings.AXES_FAILURE_LIMIT):
        page = client.post("/console/login/", body)
    assert page.status_code == 429
    assert "5 minutes" in page.content.decode()


def test_a_login_in_the_console_counts_for_rest_only_with_the_csrf_token(operator):
    browser = Client(enforce_csrf_checks=True)
    browser.force_login(operator, backend="django.contrib.auth.backends.ModelBackend")
    assert browser.get("/api/tenants").status_code == 200
    body = {"slug": "beta", "name": "Beta"}
    assert browser.post("/api/tenants", body, content_type="application/json").status_code == 403
    browser.get("/console/password_change/")
    headers = {"X-CSRFToken": browser.cookies["csrftoken"].value}
    assert browser.post("/api/tenants", body, content_type="application/json", headers=headers).status_code == 201


@pytest.mark.parametrize("model", admin.site._registry, ids=lambda model: model._meta.label)
def test_every_page_opens_for_operators(console, model):
    options = model._meta
    path = f"/console/{options.app_label}/{options.model_name}/"
    assert console.get(path).status_code == 200
    assert console.get(path, {"q": "x"}).status_code in (200, 302)
    assert console.get(f"{path}add/").status_code in (200, 403)


def test_an_operator_needs_no_further_rights(console, operator):
    operator.is_superuser = False
    operator.save()
    assert console.get("/console/accounts/tenant/").status_code == 200


def test_a_key_made_in_the_console_works_and_is_audited(console, api, tenant):
    fields = {"tenant": tenant.pk, "name": "ci", "role": "member", "scopes": ["read", "inference"]}
    page = console.post("/console/accounts/apikey/add/", fields, follow=True)
    secret = next(str(message) for message in page.context["messages"] if "sk-serai-" in str(message)).split()[-1]
    assert api(secret).get("/api/models").status_code == 200
    record = AuditRecord.objects.get(action="key.create")
    assert (record.object_id, record.tenant) == (ApiKey.objects.get().pk, tenant)
    assert secret not in str(record.details)


def test_changes_in_the_console_are_audited(console, operator):
    path = "/console/accounts/tenant/add/"
    no_members = dict.fromkeys(re.findall(r'name="([^"]*_FORMS)"', console.get(path).content.decode()), 0)
    console.post(path, {"slug": "beta", "name": "Beta", "is_active": "on", **no_members})
    made = Tenant.objects.get(slug="beta")
    record = AuditRecord.objects.get(action="tenant.create")
    assert (record.object_id, record.tenant, record.user) == (made.pk, made, operator)


def test_a_new_account_of_the_console_is_no_operator(console):
    body = {"username": "new", "password1": "a long new password", "password2": "a long new password"}
    console.post("/console/accounts/user/add/", {**body, "usable_password": "true", "is_staff": "on"})
    made = User.objects.get(username="new")
    assert not made.is_operator
    assert AuditRecord.objects.get(action="user.create").object_id == made.pk
