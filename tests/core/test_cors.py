"""Pages of other origins: only those that the operator named read answers, on every surface, errors and streams too."""

import os
import subprocess
import sys

import httpx
import pytest
from django.conf import settings as django_settings
from django.test import Client

from core import cors, streaming
from models_app.models import Model
from tests.support.gateway_server import EngineProcess, chat, engine_folder, instance, served, snapshot
from tests.support.uvicorn_server import address  # noqa: F401

APP, EVIL = "https://app.example", "https://evil.example"
ALLOW = "Access-Control-Allow-Origin"
STRANGE = [
    EVIL,
    "null",
    "https://app.example.evil",
    "http://app.example",
    "https://app.example:8443",
    "https://APP.example",
]


@pytest.fixture(autouse=True)
def named_origin(settings):
    settings.CORS_ORIGINS = [APP]


@pytest.fixture
def gateway():
    with engine_folder() as folder, served(snapshot(instance(EngineProcess(folder).endpoint))) as running:
        yield running


def preflight(client, path: str, origin: str = APP, method: str = "POST"):
    return client.options(path, headers={"Origin": origin, "Access-Control-Request-Method": method})


@pytest.mark.parametrize("path", ["/", "/health", "/api/models", "/api/models/x/start", "/api/v1/models", "/nothing"])
def test_a_preflight_needs_no_credential(client, db, path):
    reply = preflight(client, path)
    assert (reply.status_code, reply.content, reply.headers[ALLOW]) == (204, b"", APP)
    for header in ("Authorization", "X-API-Key", "Content-Type", "Serai-Tenant", "Last-Event-ID"):
        assert header in reply.headers["Access-Control-Allow-Headers"]
    assert {"PUT", "PATCH", "DELETE"} <= set(reply.headers["Access-Control-Allow-Methods"].split(", "))


@pytest.mark.parametrize("origin", STRANGE)
def test_other_origins_are_told_nothing(client, db, origin):
    for reply in (client.get("/health", headers={"Origin": origin}), preflight(client, "/api/models", origin)):
        assert not [name for name in reply.headers if name.startswith("Access-Control-")]
        assert "Origin" in reply.headers["Vary"]


def test_cookies_are_never_allowed_and_other_reasons_to_vary_are_kept(client, db):
    reply = client.get("/api/models", headers={"Origin": APP})
    assert "Access-Control-Allow-Credentials" not in reply.headers
    assert {"Origin", "Accept-Language"} <= {name.strip() for name in reply.headers["Vary"].split(",")}


def test_error_answers_can_be_read_too(api, owner, monkeypatch):
    client = api(owner, Origin=APP)
    client.raise_request_exception = False
    replies = [
        client.get("/api/models/missing"),
        client.post("/api/models", {}),
        client.put("/api/keys", {}),
        Client(headers={"Origin": APP}).get("/api/models"),
        Client(headers={"Origin": APP, "Host": "evil.test"}).get("/api/models"),
    ]
    monkeypatch.setattr("models_app.services.find", lambda *_: 1 / 0)
    replies.append(client.get("/api/models/x"))
    assert [reply.status_code for reply in replies] == [404, 422, 405, 401, 400, 500]
    assert {reply.headers[ALLOW] for reply in replies} == {APP}


def test_a_body_that_is_too_large_is_refused_readably(address):  # noqa: F811
    body = b" " * (django_settings.DATA_UPLOAD_MAX_MEMORY_SIZE + 1)
    headers = {"Origin": APP, "Accept-Language": "zh-CN"}
    reply = httpx.post(f"http://{address}/api/auth/token", content=body, headers=headers)
    assert (reply.status_code, reply.headers[ALLOW]) == (413, APP)
    assert reply.json()["message"] == "请求体过大。"


def test_one_stream_too_many_is_refused_readably(address, monkeypatch, key, tenant):  # noqa: F811
    """Past Django's middleware."""
    monkeypatch.setattr(streaming, "MAX_STREAMS_PER_OWNER", 0)
    Model.objects.create(tenant=tenant, name="m")
    headers = {"Authorization": f"Bearer {key()}", "Accept-Language": "zh-CN", "X-Request-Id": "mine"}
    with httpx.Client(base_url=f"http://{address}", headers=headers) as browser:
        reply = browser.get("/api/models/m/logs/stream", headers={"Origin": APP})
        foreign = browser.get("/api/models/m/logs/stream", headers={"Origin": EVIL})
    assert (reply.status_code, reply.headers[ALLOW], reply.headers["X-Request-Id"]) == (429, APP, "mine")
    assert reply.json()["message"] == "打开的流太多，请先关闭一个。"
    assert (foreign.status_code, foreign.headers.get(ALLOW)) == (429, None)


def test_the_data_plane_answers_preflights(gateway):
    with gateway.client(None) as browser:
        for path in ("/v1/chat/completions", "/v1/models", "/api/models/demo/generate", "/v1/nothing"):
            reply = preflight(browser, path)
            assert (reply.status_code, reply.headers[ALLOW]) == (204, APP)
            assert "Authorization" in reply.headers["Access-Control-Allow-Headers"]
        for origin in STRANGE:
            assert ALLOW not in preflight(browser, "/v1/models", origin).headers


@pytest.mark.parametrize("stream", [False, True])
def test_the_data_planes_replies_and_streams_can_be_read(gateway, stream):
    with gateway.client() as browser:
        body = chat(stream=stream)
        assert browser.post("/v1/chat/completions", json=body, headers={"Origin": APP}).headers[ALLOW] == APP
        foreign = browser.post("/v1/chat/completions", json=body, headers={"Origin": EVIL})
        assert (foreign.status_code, foreign.headers.get(ALLOW)) == (200, None)


def test_the_data_planes_errors_can_be_read(gateway, monkeypatch):
    with gateway.client() as browser, gateway.client(None) as nobody:
        browser.headers["Origin"] = nobody.headers["Origin"] = APP
        replies = [
            nobody.post("/v1/chat/completions", json=chat()),
            nobody.get("/v1/models"),
            browser.get("/v1/chat/completions"),
            browser.get("/v1/nothing"),
            browser.post("/v1/chat/completions", content=b"{"),
            browser.post("/v1/chat/completions", json=chat("[[error_status=500]]")),
            browser.post("/api/v1/models/nothing/generate", json={"prompt": "x"}),
        ]
        monkeypatch.setattr("gateway.routing.model_lookup.visible_models", lambda *_: 1 / 0)
        replies.append(browser.get("/v1/models"))
    assert [reply.status_code for reply in replies] == [401, 401, 405, 404, 400, 503, 404, 500]
    assert {reply.headers[ALLOW] for reply in replies} == {APP}


@pytest.mark.parametrize(
    ("origin", "valid"),
    [
        ("https://app.example.com", True), ("http://localhost:5173", True), ("http://[::1]:3000", True),
        ("tauri://localhost", True), ("*", False), ("https://*.example.com", False), ("https://x.example/", False),
        ("https://App.example.com", False), ("app.example.com", False), ("null", False), ("", False),
        ("https://user@app.example.com", False), ("https://app.example.com\n", False),
    ],
)  # fmt: skip
def test_an_origin_is_scheme_host_and_port_and_nothing_else(origin, valid):
    assert cors.is_origin(origin) == valid


def test_a_wildcard_is_refused_at_start():
    environment = {**os.environ, "SERAI_CORS_ORIGINS": "https://app.example,*", "SERAI_NO_VENV": "1"}
    started = subprocess.run(
        [sys.executable, "manage.py", "check"],
        cwd=django_settings.BASE_DIR, env=environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert started.returncode != 0
    assert "'*' is no origin" in started.stderr
