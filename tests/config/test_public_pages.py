"""The public pages, and what a broken, hostile or unlucky request is answered with."""

import json
import socket

import httpx
import pytest
from django.conf import settings
from django.db import connection
from django.test import Client

from tests.support.uvicorn_server import address  # noqa: F401

FORM = {"success", "message", "error", "timestamp", "path"}


@pytest.fixture
def closed_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.fixture
def database_away(django_db_blocker, monkeypatch, closed_port):
    with django_db_blocker.unblock():
        connection.close()
        for name, value in {"HOST": "127.0.0.1", "PORT": closed_port, "USER": "nobody"}.items():
            monkeypatch.setitem(connection.settings_dict, name, value)
        yield
        connection.close()


def test_the_root_tells_programs_what_this_is(client):
    body = client.get("/").json()
    assert {"message", "version", "models_url"} <= set(body)
    assert (body["version"], body["models_url"], body["docs_url"]) == ("1.0.0", "/v1/models", "/docs")


def test_the_root_sends_browsers_to_the_console(client):
    reply = client.get("/", headers={"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    assert (reply.status_code, reply.headers["Location"]) == (302, "/console/")


def test_the_root_refuses_nobody_for_what_he_accepts(client):
    for accept in ("text/html", "text/html;q=0.9", "application/xhtml+xml, text/html"):
        reply = client.get("/", headers={"Accept": accept})
        assert (reply.status_code, reply.headers["Location"]) == (302, "/console/")
    assert client.get("/", headers={"Accept": "image/png"}).json()["models_url"] == "/v1/models"


def test_health_counts_and_names_nothing(client, owner):
    assert client.get("/health").json() == {"status": "healthy", "models_count": 0, "running_models": 0}
    assert client.get("/check_health").json() == {"status": "ok"}
    assert client.head("/health").status_code == 200


def test_public_pages_do_not_mind_a_wrong_credential(client, db):
    for path in ("/", "/health", "/check_health", "/openapi.json", "/docs"):
        assert client.get(path, headers={"Authorization": "Bearer nonsense"}).status_code == 200


def test_without_the_database_health_says_so_and_rest_can_be_tried_again(database_away, client):
    health = client.get("/health")
    assert (health.status_code, health.json()["status"]) == (503, "degraded")
    assert client.get("/check_health").status_code == 200
    rest = client.get("/api/models", headers={"X-API-Key": "sk-serai-x"})
    assert (rest.status_code, rest.json()["error"]["code"]) == (503, "SERVICE_UNAVAILABLE")
    assert int(rest.headers["Retry-After"]) > 0


@pytest.mark.parametrize("path", ["/api/nothing", "/nothing", "/api/", "/api/v1/nothing", "/api/models/"])
def test_an_unknown_route_is_answered_in_the_documents_form(api, owner, path):
    reply = api(owner).get(path)
    assert reply.status_code == 404
    assert set(reply.json()) == FORM
    assert (reply.json()["success"], reply.json()["path"]) == (False, path)


def test_the_consoles_unknown_pages_are_pages(client, operator):
    client.force_login(operator, backend="django.contrib.auth.backends.ModelBackend")
    assert client.get("/console/nothing").headers["Content-Type"].startswith("text/html")


def test_a_bug_tells_the_request_id_and_nothing_else(api, owner, monkeypatch):
    def broken(*_args, **_options):
        raise ZeroDivisionError("a secret in the message")

    monkeypatch.setattr("models_app.services.find", broken)
    client = api(owner)
    client.raise_request_exception = False
    reply = client.get("/api/models/x", headers={"X-Request-Id": "mine-1"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (500, "INTERNAL_ERROR")
    assert reply.json()["error"]["details"] == {"request_id": "mine-1"}
    assert "secret" not in reply.content.decode()


@pytest.mark.parametrize("given, kept", [("mine-1", True), ("x" * 65, False), ("a b", False), ("a\nb", False)])
def test_a_request_id_is_kept_if_it_is_harmless(client, db, given, kept):
    assert (client.get("/check_health", headers={"X-Request-Id": given}).headers["X-Request-Id"] == given) == kept


@pytest.mark.parametrize("host", ["evil.test", "127.0.0.1.evil.test", "localhost/v1?", "localhost#", "a@localhost", ""])
def test_a_foreign_host_name_is_refused(host):
    reply = Client(headers={"Host": host}).get("/api/models")
    assert reply.status_code == 400
    assert set(reply.json()) == FORM


@pytest.mark.parametrize(
    "path", ["//api/models", "/api//models", "/API/models", "/api/models;x", "/api%2fmodels", "/./api/models"]
)
def test_no_spelling_of_a_path_goes_round_the_credential(client, db, path):
    assert client.get(path).status_code in (401, 404)


@pytest.mark.parametrize(
    "body",
    [
        "",
        "{",
        "nul",
        "[" * 100_000,
        '{"name": NaN}',
        '{"name": "\\ud800"}',
        '{"name": "a\\u0000b"}',
        '"\xff"',
        "{}{}",
        "'x'",
    ],
    ids=lambda body: body[:20],
)
def test_a_body_that_is_no_strict_json_is_400(api, owner, body):
    content = body.encode("latin-1")
    reply = api(owner).post("/api/keys", content or b" ", content_type="application/json")
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "INVALID_REQUEST")


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "x"]
)
def test_a_body_of_another_type_is_400(api, owner, kind):
    reply = api(owner).post("/api/keys", b"name=x", content_type=kind)
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "INVALID_REQUEST")


@pytest.mark.parametrize("body", [[], "x", 1, None, [{"name": "x"}]])
def test_a_body_that_is_no_object_is_refused(api, owner, body):
    reply = api(owner).post("/api/keys", json.dumps(body), content_type="application/json")
    assert (reply.status_code, reply.json()["error"]["code"]) == (422, "INVALID_REQUEST")


def test_a_method_that_is_not_offered_is_405_for_those_who_are_known(api, owner):
    assert api(owner).put("/api/keys", {}).status_code == 405
    assert api().put("/api/keys", {}).status_code == 401


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_large_is_413_before_anybody_looks_at_it(address, chunked):  # noqa: F811
    size = settings.DATA_UPLOAD_MAX_MEMORY_SIZE + 1

    def pieces():
        yield from (b" " * 65536 for _piece in range(size // 65536 + 1))

    reply = httpx.post(f"http://{address}/api/auth/token", content=pieces() if chunked else b" " * size)
    assert (reply.status_code, reply.json()["error"]["code"]) == (413, "INVALID_REQUEST")
    assert set(reply.json()) == FORM


def test_spelling_a_header_with_underscores_says_nothing(address, api, owner, stranger):  # noqa: F811
    token = api(owner)._base_environ()["HTTP_AUTHORIZATION"]
    reply = httpx.get(f"http://{address}/api/members", headers={"Authorization": token, "Serai_Tenant": "evil"})
    assert {item["tenant"] for item in reply.json()["items"]} == {owner.default_tenant_id}
    forged = httpx.get(f"http://{address}/api/members", headers={"X_API_Key": "x", "Authorization_": token})
    assert forged.status_code == 401


def test_a_header_that_comes_a_hundred_times_names_no_tenant(address, api, owner):  # noqa: F811
    token = api(owner)._base_environ()["HTTP_AUTHORIZATION"]
    headers = [("Authorization", token), *[("Serai-Tenant", "evil")] * 100]
    assert httpx.get(f"http://{address}/api/members", headers=headers).status_code == 404
