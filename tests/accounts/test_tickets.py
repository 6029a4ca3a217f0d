"""Tickets for browsers: good once, for half a minute, for reading streams and for nothing else."""

import json

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from accounts import services, tickets, tokens
from accounts.models import ApiKey, Scope
from core import broker
from core.logs import redact
from models_app.models import Model
from tests.support.uvicorn_server import address  # noqa: F401

SOON = 20
TICKET = "/api/auth/ticket"


@pytest.fixture(autouse=True)
def empty_valkey():
    broker.client().flushdb()


@pytest.fixture
def model(tenant) -> Model:
    return Model.objects.create(tenant=tenant, name="ours")


def ticket(client) -> str:
    reply = client.post(TICKET)
    assert reply.status_code == 200
    assert reply.json()["expires_in"] == 30
    assert reply.headers["Cache-Control"] == "no-store"
    return reply.json()["ticket"]


def opened(address, code, path="/api/models/ours/logs/stream") -> httpx.Response:  # noqa: F811
    with httpx.stream("GET", f"http://{address}{path}", params={"ticket": code}, timeout=SOON) as reply:
        return reply


def test_a_ticket_opens_one_stream_once(address, api, viewer, model):  # noqa: F811
    code = ticket(api(viewer))
    assert opened(address, code).status_code == 200
    assert opened(address, code).status_code == 401


def test_a_keys_ticket_opens_the_other_stream_too(address, api, key, model):  # noqa: F811
    code = ticket(api(key(scopes=[Scope.READ])))
    assert opened(address, code, "/api/models/ours/logs?follow=true").status_code == 200


def test_a_ticket_sees_what_its_owner_sees(address, api, stranger, operator, model):  # noqa: F811
    assert opened(address, ticket(api(stranger))).status_code == 404
    assert opened(address, ticket(api(operator)), f"/api/models/{model.pk}/logs/stream").status_code == 200
    named = ticket(api(operator, **{"Serai-Tenant": "evil"}))
    assert opened(address, named, f"/api/models/{model.pk}/logs/stream").status_code == 404


def test_a_ticket_ends_with_the_credential_that_it_was_made_with(address, api, key, model):  # noqa: F811
    code = ticket(api(key()))
    services.revoke_key(ApiKey.objects.get())
    assert opened(address, code).status_code == 401


def test_a_stream_by_ticket_ends_with_the_key(address, api, key, model):  # noqa: F811
    url, code = f"http://{address}/api/models/ours/logs/stream", ticket(api(key()))
    with httpx.stream("GET", url, params={"ticket": code}, timeout=SOON) as reply:
        events = (json.loads(line[6:])["type"] for line in reply.iter_lines() if line.startswith("data: "))
        assert next(events) == "historical_complete"
        services.revoke_key(ApiKey.objects.get())
        assert list(events) == ["error", "stream_end"]


@pytest.mark.parametrize("code", ["nonsense", "x" * 5000, "ключ", "%00"])
def test_a_wrong_ticket_is_refused(address, model, code):  # noqa: F811
    assert opened(address, code).status_code in (400, 401)


def test_a_ticket_is_good_for_streams_only(api, viewer, model):
    code = ticket(api(viewer))
    for path in ("/api/models", "/api/models/ours", "/api/logs/stats", "/api/models/ours/crashes"):
        assert api().get(path, {"ticket": code}).status_code == 401
    assert api().post(f"{TICKET}?ticket={code}").status_code == 401


def test_who_may_not_read_gets_none(api, key):
    assert api(key(scopes=[Scope.INFERENCE])).post(TICKET).status_code == 403
    assert api().post(TICKET).status_code == 401


def test_valkey_holds_neither_ticket_nor_credential(api, viewer, key):
    secrets = [ticket(api(viewer)), ticket(api(key()))]
    kept = {name: broker.client().get(name) for name in broker.client().keys("serai:ticket:*")}
    assert len(kept) == 2
    assert all(0 < broker.client().ttl(name) <= tickets.TICKET_LIFETIME for name in kept)
    text = repr(kept)
    assert not [secret for secret in secrets if secret in text]
    assert "sk-serai" not in text and "eyJ" not in text


def test_a_ticket_in_a_log_line_is_masked():
    assert redact("GET /ws/monitor?a=1&ticket=abc-DEF_1 HTTP/1.1") == "GET /ws/monitor?a=1&ticket=*** HTTP/1.1"


# --- sockets


def test_a_ticket_opens_a_socket_once(address, api, viewer, model):  # noqa: F811
    url = f"ws://{address}/ws/monitor?ticket={ticket(api(viewer))}"
    with connect(url) as ws:
        ws.send(json.dumps({"action": "subscribe", "events": ["model_status"]}))
        assert json.loads(ws.recv(timeout=SOON))["type"] == "subscribed"
    with pytest.raises(InvalidStatus) as refused, connect(url):
        pass
    assert refused.value.response.status_code == 403


def test_a_socket_by_ticket_ends_with_its_log_in(address, api, viewer, model):  # noqa: F811
    credential = tokens.open_session(viewer)["access_token"]
    with connect(f"ws://{address}/ws/monitor?ticket={ticket(api(credential))}") as ws:
        tokens.revoke_session(credential)
        with pytest.raises(ConnectionClosed) as closed:
            ws.recv(timeout=SOON)
    assert closed.value.rcvd.code == 4401


def test_a_foreign_page_opens_no_socket_with_a_ticket(address, api, viewer):  # noqa: F811
    url = f"ws://{address}/ws/monitor?ticket={ticket(api(viewer))}"
    with pytest.raises(InvalidStatus), connect(url, origin="http://evil.test"):
        pass
