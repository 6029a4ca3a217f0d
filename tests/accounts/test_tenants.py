"""Tenants, members and the audit log over REST."""

import pytest

from accounts.models import AuditRecord, Membership, Role, Tenant, User

TENANTS, MEMBERS, AUDIT = "/api/tenants", "/api/members", "/api/audit"


def membership(user) -> str:
    return f"{MEMBERS}/{user.memberships.get().pk}"


def actions() -> list[str]:
    return list(AuditRecord.objects.order_by("pk").values_list("action", flat=True))


def test_an_operator_makes_and_closes_a_tenant(api, operator):
    made = api(operator).post(TENANTS, {"slug": "beta", "name": "Beta"})
    assert made.status_code == 201
    assert made.json()["id"].startswith("tenant-")
    closed = api(operator).patch(f"{TENANTS}/{made.json()['id']}", {"is_active": False})
    assert closed.json()["is_active"] is False
    assert actions() == ["tenant.create", "tenant.change"]


def test_a_taken_or_wrong_slug_is_refused_by_name(api, operator, tenant):
    for slug in (tenant.slug, "Two Words", "", "../x"):
        reply = api(operator).post(TENANTS, {"slug": slug, "name": "x"})
        assert (reply.status_code, list(reply.json()["error"]["details"])) == (422, ["slug"])


def test_people_of_a_closed_tenant_are_shut_out(api, owner, tenant):
    client = api(owner)
    tenant.is_active = False
    tenant.save()
    assert client.get(MEMBERS).status_code == 403


def test_a_list_is_cut_into_pages_as_the_document_shows(api, operator):
    Tenant.objects.bulk_create(Tenant(slug=f"t{number}", name="x") for number in range(5))
    page = api(operator).get(TENANTS, {"page": 2, "size": 2}).json()
    assert [item["slug"] for item in page.pop("items")] == ["t2", "t3"]
    assert page == {"total": 5, "page": 2, "size": 2, "pages": 3}


@pytest.mark.parametrize("query", [{"page": 0}, {"size": 101}, {"size": "x"}, {"page": "１"}, {"page": "9" * 40}])
def test_a_page_that_cannot_be_is_refused(api, operator, query):
    reply = api(operator).get(TENANTS, query)
    assert (reply.status_code, list(reply.json()["error"]["details"])) == (422, list(query))


def test_an_admin_adds_a_person_who_has_an_account(api, admin, stranger):
    reply = api(admin).post(MEMBERS, {"username": stranger.username, "role": "viewer"})
    assert (reply.status_code, reply.json()["role"]) == (201, "viewer")
    assert actions() == ["member.add"]
    again = api(admin).post(MEMBERS, {"username": stranger.username, "role": "viewer"})
    assert (again.status_code, again.json()["error"]["code"]) == (409, "CONFLICT")


def test_only_an_operator_makes_accounts(api, admin, operator, tenant):
    body = {"username": "new", "password": "a long new password", "role": "member"}
    assert api(admin).post(MEMBERS, body).status_code == 422
    assert api(operator, **{"Serai-Tenant": "acme"}).post(MEMBERS, body).status_code == 201
    assert User.objects.get(username="new").default_tenant == tenant


def test_an_operators_password_never_replaces_an_existing_one(api, operator, owner):
    client = api(operator, **{"Serai-Tenant": "acme"})
    reply = client.post(MEMBERS, {"username": owner.username, "password": "a long new password"})
    assert (reply.status_code, list(reply.json()["error"]["details"])) == (422, ["username"])
    owner.refresh_from_db()
    assert not owner.check_password("a long new password")


def test_a_weak_password_is_refused(api, operator, tenant):
    client = api(operator, **{"Serai-Tenant": "acme"})
    assert client.post(MEMBERS, {"username": "new", "password": "12345"}).status_code == 422


@pytest.mark.parametrize("field", ["tenant", "id"])
def test_a_new_account_has_no_more_than_it_should(api, operator, tenant, stranger, field):
    body = {"username": "new", "password": "a long new password", "role": "member", field: "evil"}
    api(operator, **{"Serai-Tenant": "acme"}).post(MEMBERS, body)
    made = User.objects.get(username="new")
    assert (made.is_staff, made.is_superuser, made.is_active, made.default_tenant) == (False, False, True, tenant)


@pytest.mark.parametrize("field", ["is_staff", "is_superuser", "is_active", "default_tenant"])
def test_an_account_with_more_than_it_should_have_is_not_made(api, operator, tenant, field):
    body = {"username": "new", "password": "a long new password", "role": "member", field: "evil"}
    reply = api(operator, **{"Serai-Tenant": "acme"}).post(MEMBERS, body)
    assert (reply.status_code, list(reply.json()["error"]["details"])) == (422, [field])
    assert not User.objects.filter(username="new").exists()


def test_roles_are_given_and_taken_up_to_ones_own(api, owner, admin, viewer):
    assert api(admin).patch(membership(viewer), {"role": "owner"}).status_code == 403
    assert api(admin).patch(membership(owner), {"role": "viewer"}).status_code == 403
    assert api(admin).delete(membership(owner)).status_code == 403
    assert api(admin).patch(membership(viewer), {"role": "admin"}).json()["role"] == "admin"
    assert api(owner).patch(membership(viewer), {"role": "owner"}).json()["role"] == "owner"


def test_a_role_changes_what_one_may_at_once(api, owner, viewer):
    client = api(viewer)
    assert client.get(MEMBERS).status_code == 403
    api(owner).patch(membership(viewer), {"role": "admin"})
    assert client.get(MEMBERS).status_code == 200


def test_the_last_owner_stays(api, owner, operator):
    for client in (api(owner), api(operator)):
        assert client.patch(membership(owner), {"role": "viewer"}).status_code == 409
        assert client.delete(membership(owner)).status_code == 409
    assert Membership.objects.get(user=owner).role == Role.OWNER


def test_who_is_removed_is_out_at_once(api, owner, member):
    client = api(member)
    assert api(owner).delete(membership(member)).status_code == 204
    assert client.get("/api/models").status_code == 403


def test_a_stranger_finds_no_member(api, stranger, viewer):
    for reply in (
        api(stranger).get(membership(viewer)),
        api(stranger).patch(membership(viewer), {"role": "admin"}),
        api(stranger).delete(membership(viewer)),
        api(stranger).get(f"{MEMBERS}/999999"),
        api(stranger).get(f"{MEMBERS}/x"),
    ):
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "NOT_FOUND")
    assert [item["username"] for item in api(stranger).get(MEMBERS).json()["items"]] == [stranger.username]


def test_the_header_names_the_tenant_for_members_of_it(api, owner, stranger, tenant):
    Membership.objects.create(user=stranger, tenant=tenant, role=Role.ADMIN)
    for name in (tenant.slug, tenant.pk):
        seen = api(stranger, **{"Serai-Tenant": name}).get(MEMBERS).json()
        assert {item["tenant"] for item in seen["items"]} == {tenant.pk}
    assert api(stranger).get(MEMBERS).json()["total"] == 1


@pytest.mark.parametrize("name", ["evil", "nothing", "evil,acme", "EVIL", " "])
def test_the_header_opens_no_foreign_tenant(api, owner, stranger, name):
    assert api(owner, **{"Serai-Tenant": name}).get(MEMBERS).status_code == 404


@pytest.mark.parametrize("header", ["X-Tenant", "X-Tenant-Id", "X-Forwarded-User", "Remote-User", "Tenant"])
def test_no_other_header_says_who_one_is_or_acts_for(api, owner, stranger, header):
    Membership.objects.create(user=owner, tenant=stranger.default_tenant, role=Role.OWNER)
    seen = api(owner, **{header: "evil"}).get(MEMBERS).json()
    assert {item["tenant"] for item in seen["items"]} == {owner.default_tenant_id}
    assert api(**{header: "root"}).get(MEMBERS).status_code == 401


def test_an_operator_sees_all_tenants_or_the_one_he_names(api, owner, stranger, operator):
    assert api(operator).get(MEMBERS).json()["total"] == 2
    assert api(operator, **{"Serai-Tenant": "evil"}).get(MEMBERS).json()["total"] == 1


def test_an_operator_without_a_tenant_has_to_name_one_to_write(api, operator, owner):
    reply = api(operator).post("/api/keys", {"name": "x"})
    assert (reply.status_code, list(reply.json()["error"]["details"])) == (422, ["Serai-Tenant"])
    assert api(operator, **{"Serai-Tenant": "acme"}).post("/api/keys", {"name": "x"}).status_code == 201


def test_admins_read_their_own_audit_and_operators_all(api, admin, stranger, operator):
    api(admin).post("/api/keys", {"name": "ours"})
    api(stranger).post("/api/keys", {"name": "theirs"})
    assert [item["details"]["name"] for item in api(admin).get(AUDIT).json()["items"]] == ["ours"]
    assert api(operator).get(AUDIT, {"action": "key.create"}).json()["total"] == 2
    record = api(admin).get(AUDIT).json()["items"][0]
    assert (record["actor"], record["object_type"]) == (admin.username, "ApiKey")
    assert record["request_id"]


def test_the_audit_log_cannot_be_written(api, operator, owner):
    api(owner).post("/api/keys", {"name": "x"})
    for method in ("post", "put", "patch", "delete"):
        assert getattr(api(operator), method)(AUDIT).status_code == 405


@pytest.mark.parametrize(
    "query", ["_connector=OR", "_negated=1", "tenant__slug=evil", 'a"b=1', "action=%00", "search=%00"]
)
def test_list_filters_take_the_named_fields_only(api, admin, stranger, query):
    api(stranger).post("/api/keys", {"name": "theirs"})
    reply = api(admin).get(f"{AUDIT}?{query}")
    assert reply.status_code in (200, 400, 422)
    assert reply.status_code != 200 or reply.json()["total"] == 0


@pytest.mark.parametrize("path", ["/api/keys/%00", "/api/tasks/a%00b", "/api/models/%00", "/api/tenants/%00"])
def test_a_path_with_a_zero_byte_is_refused(api, operator, path):
    assert api(operator).get(path).status_code == 400


def test_what_is_below_v1_equals_what_is_not(api, owner, viewer):
    assert api(owner).get("/api/v1/members").json()["items"] == api(owner).get(MEMBERS).json()["items"]
    assert api(viewer).get("/api/v1/members").status_code == 403
    reply = api(owner).post("/api/v1/keys", {})
    assert reply.status_code == 400
    assert {"type", "field", "description"} == set(reply.json()["error"]["details"][0])
