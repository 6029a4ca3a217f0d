"""The last operator stays, nobody removes himself, and a command lets in who is locked out."""

import io
import re

import pytest
from django.conf import settings
from django.contrib.messages import get_messages
from django.core.management import CommandError, call_command

from accounts import operators
from accounts.models import AuditRecord, Membership, Role, User
from core.errors import Conflict
from tests.support.user_fixtures import person

ACCOUNTS = "/console/accounts/user/"
PASSWORD = "correct horse battery staple"
YOURSELF = "You cannot delete, demote or disable yourself. Another operator can."


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def other(operator) -> User:
    return person("otto", None, None, is_staff=True)


@pytest.fixture
def console(operator, client):
    client.force_login(operator, backend="django.contrib.auth.backends.ModelBackend")
    return client


def form_of(user: User, *, ticked: tuple[str, ...]) -> dict:
    return {"username": user.username, **dict.fromkeys(ticked, "on")}


def is_operator(user: User) -> bool:
    return User.objects.filter(pk=user.pk, is_staff=True, is_active=True).exists()


def messages_after(reply) -> list[str]:
    return [str(message) for message in get_messages(reply.wsgi_request)]


@pytest.mark.parametrize("ticked, field", [(("is_active",), "is_staff"), (("is_staff",), "is_active")])
@pytest.mark.parametrize("alone", [True, False])
def test_nobody_demotes_or_disables_himself_in_the_console(console, operator, request, alone, ticked, field):
    if not alone:
        request.getfixturevalue("other")
    page = console.post(f"{ACCOUNTS}{operator.pk}/change/", form_of(operator, ticked=ticked))
    assert page.context["adminform"].form.errors == {field: [YOURSELF]}
    assert is_operator(operator)


def test_an_operators_other_fields_can_be_changed(console, operator):
    form = {**form_of(operator, ticked=("is_active", "is_staff")), "email": "root@example.com"}
    assert console.post(f"{ACCOUNTS}{operator.pk}/change/", form).status_code == 302
    operator.refresh_from_db()
    assert operator.email == "root@example.com"


def test_one_operator_demotes_disables_and_deletes_another(console, other):
    console.post(f"{ACCOUNTS}{other.pk}/change/", form_of(other, ticked=("is_active",)))
    assert not is_operator(other)
    console.post(f"{ACCOUNTS}{other.pk}/delete/", {"post": "yes"})
    assert not User.objects.filter(pk=other.pk).exists()


def test_nobody_deletes_himself_in_the_console(console, operator, other):
    path = f"{ACCOUNTS}{operator.pk}/delete/"
    for reply in (console.get(path), console.post(path, {"post": "yes"})):
        assert reply.headers["Location"] == f"{ACCOUNTS}{operator.pk}/change/"
        assert YOURSELF in messages_after(reply)
    assert is_operator(operator)


def test_the_action_on_a_list_deletes_nobody_if_oneself_is_among_them(console, operator, other, owner):
    chosen = {"action": "delete_selected", "_selected_action": [operator.pk, other.pk, owner.pk], "post": "yes"}
    assert YOURSELF in messages_after(console.post(ACCOUNTS, chosen))
    assert User.objects.filter(pk__in=[operator.pk, other.pk, owner.pk]).count() == 3
    console.post(ACCOUNTS, {**chosen, "_selected_action": [other.pk, owner.pk]})
    assert list(User.objects.all()) == [operator]
    assert AuditRecord.objects.filter(action="user.delete").count() == 2


def test_of_two_operators_who_remove_each_other_one_stays(operator, other):
    """The second one was let in before he was demoted: what counts is what the locked rows say."""
    User.objects.filter(pk=operator.pk).update(is_staff=False)
    with pytest.raises(Conflict, match="The last operator cannot be deleted"):
        operators.require_removable([other], by=operator)


def test_the_console_keeps_a_tenants_last_owner(console, tenant, owner, member):
    path = f"/console/accounts/tenant/{tenant.pk}/change/"
    prefix = re.search(r'name="([^"]*)-TOTAL_FORMS"', console.get(path).content.decode()).group(1)
    rows = list(Membership.objects.filter(tenant=tenant))
    form = {"slug": tenant.slug, "name": tenant.name, "is_active": "on", f"{prefix}-MIN_NUM_FORMS": 0}
    form |= {f"{prefix}-TOTAL_FORMS": len(rows), f"{prefix}-INITIAL_FORMS": len(rows)}
    for number, row in enumerate(rows):
        fields = {"id": row.pk, "tenant": tenant.pk, "user": row.user_id, "role": row.role}
        form |= {f"{prefix}-{number}-{name}": value for name, value in fields.items()}
    assert console.post(path, form).status_code == 302
    place = next(number for number, row in enumerate(rows) if row.user == owner)
    for change in ({f"{prefix}-{place}-DELETE": "on"}, {f"{prefix}-{place}-role": "member"}):
        assert "A tenant needs at least one owner." in console.post(path, {**form, **change}).content.decode()
    assert owner.memberships.get().role == Role.OWNER


def test_nobody_changes_or_ends_his_own_membership(api, owner, admin, operator, tenant):
    path = f"/api/members/{admin.memberships.get().pk}"
    for reply in (api(admin).patch(path, {"role": "viewer"}), api(admin).delete(path)):
        assert (reply.status_code, reply.json()["error"]["code"]) == (409, "CONFLICT")
    assert api(owner).patch(path, {"role": "viewer"}).status_code == 200
    own = Membership.objects.create(tenant=tenant, user=operator, role=Role.ADMIN)
    assert api(operator).delete(f"/api/members/{own.pk}").status_code == 204


def run(*words: str, terminal: bool = True) -> str:
    out = Terminal() if terminal else io.StringIO()
    call_command("operator", *words, stdout=out)
    return out.getvalue()


def logs_in(api, username: str, password: str) -> bool:
    reply = api().post("/api/auth/token", {"username": username, "password": password})
    return reply.status_code == 200


def test_an_operator_is_made_at_the_terminal_with_a_password_shown_once(api, db):
    password = re.search(r"Login +rescue / (\S+)", run("add", "rescue")).group(1)
    assert is_operator(User.objects.get(username="rescue"))
    assert logs_in(api, "rescue", password)
    record = AuditRecord.objects.get(action="operator.add")
    assert (record.actor, record.details) == ("command line", {"username": "rescue"})


def test_an_account_without_the_right_becomes_an_operator_again(api, operator):
    User.objects.filter(pk=operator.pk).update(is_staff=False, is_active=False)
    text = run("add", operator.username, terminal=False)
    assert is_operator(operator) and "operator password root" in text


def test_a_forgotten_password_is_replaced_and_its_log_ins_and_pause_end(api, operator):
    client = api(operator)
    for _attempt in range(settings.AXES_FAILURE_LIMIT):
        assert not logs_in(api, operator.username, "wrong")
    password = re.search(r"Login +root / (\S+)", run("password", operator.username)).group(1)
    assert client.get("/api/tenants").status_code == 401
    assert logs_in(api, operator.username, password)


@pytest.mark.parametrize("command", ["add", "password"])
def test_a_script_gives_the_password_and_reads_none(api, operator, monkeypatch, command):
    name = operator.username if command == "password" else "rescue"
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{PASSWORD}\n"))
    assert PASSWORD not in run(command, name, "--password-stdin", terminal=False)
    assert logs_in(api, name, PASSWORD)


@pytest.mark.parametrize(
    "words, why",
    [
        (["add", "root"], "operator password root"),
        (["password", "olivia"], "operator add olivia"),
        (["password", "nobody"], "operator add nobody"),
        (["add", "new"], "--password-stdin"),
        (["password", "root"], "--password-stdin"),
        (["add", "two words", "--password-stdin"], "valid username"),
        (["add", "new", "--password-stdin"], "too short"),
        (["password", "root", "--password-stdin"], "too short"),
    ],
    ids=" ".join,
)
def test_what_cannot_be_is_refused_with_the_way_out(api, operator, owner, monkeypatch, words, why):
    monkeypatch.setattr("sys.stdin", io.StringIO("short\n"))
    before = set(User.objects.values_list("username", "password", "is_staff"))
    with pytest.raises(CommandError, match=why):
        run(*words, terminal=False)
    assert set(User.objects.values_list("username", "password", "is_staff")) == before
