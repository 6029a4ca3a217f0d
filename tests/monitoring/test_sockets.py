"""/ws/monitor: who gets in, what is told to whom, and how it ends."""

import json
import socket
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from urllib.parse import urlsplit

import psutil
import pytest
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.contrib.sessions.backends.db import SessionStore
from django.db import transaction
from django.utils import timezone
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from accounts import services, tokens
from accounts.actor import Actor
from accounts.models import ApiKey, LoginSession, Role, Scope, User
from core import broker, events
from inference.instances import transitions
from inference.models import Instance, Node
from models_app.models import Model
from monitoring.sockets import outbox
from tests.support.uvicorn_server import address  # noqa: F401

SOON = 10  # seconds that anything may take on a busy machine
MODEL_STATUS = {"action": "subscribe", "events": ["model_status"]}


@pytest.fixture
def model(tenant):
    return Model.objects.create(tenant=tenant, name="ours")


@pytest.fixture
def monitor(address):  # noqa: F811
    """monitor(credential) is an open socket; what it is not used for it closes."""

    @contextmanager
    def opened(credential=None, **options):
        headers, path = options.pop("headers", {}), options.pop("path", "/ws/monitor")
        if credential:
            headers = {**headers, "Authorization": f"Bearer {credential}"}
        with connect(f"ws://{address}{path}", additional_headers=headers, **options) as ws:
            yield ws

    opened.address = address
    return opened


def send_message(ws, message) -> dict:
    ws.send(message if isinstance(message, (str, bytes)) else json.dumps(message))
    return receive_message(ws)


def receive_message(ws) -> dict:
    return json.loads(ws.recv(timeout=SOON))


def subscribe(ws, *expected: Model) -> None:
    """Subscribe to model states and take in the snapshot, which names exactly the expected models."""
    assert send_message(ws, MODEL_STATUS) == {"type": "subscribed", "events": ["model_status"]}
    seen = {receive_message(ws)["data"]["model_id"] for _model in expected}
    assert seen == {model.pk for model in expected}


def close_code(ws) -> int:
    with pytest.raises(ConnectionClosed) as closed:
        while True:
            ws.recv(timeout=SOON)
    return closed.value.rcvd.code


def refused(opening) -> int:
    with pytest.raises(InvalidStatus) as handshake, opening:
        pass
    return handshake.value.response.status_code


def access(user) -> str:
    return tokens.open_session(user)["access_token"]


def session_cookie(user) -> str:
    session = SessionStore()
    session[SESSION_KEY], session[HASH_SESSION_KEY] = user.pk, user.get_session_auth_hash()
    session[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
    session.save()
    return f"serai_session={session.session_key}"


def place(model) -> Instance:
    node, _created = Node.objects.get_or_create(name="here", data_folder="/here")
    return Instance.objects.create(tenant=model.tenant, model=model, node=node, served_name=model.name)


def announce(instance) -> None:
    with transaction.atomic():
        transitions.publish_status(instance)


def connections(kind: str) -> set[str]:
    """Ids of this process's connections to Valkey, which other test processes use too."""
    ours = str(broker.client().get_connection_kwargs()["db"])
    return {connected["id"] for connected in broker.client().client_list(_type=kind) if connected["db"] == ours}


def end(ids: set[str]) -> None:
    for client_id in ids:
        broker.client().client_kill_filter(_id=client_id, skipme=True)


def test_a_change_of_state_is_told_as_the_document_shows(monitor, owner, model):
    with monitor(access(owner)) as ws:
        subscribe(ws, model)
        announce(place(model))
        event = receive_message(ws)
    timestamp = event["data"].pop("timestamp")
    assert timestamp.endswith("Z")
    assert event == {
        "type": "model_status_update",
        "data": {"model_id": model.pk, "status": "starting", "health": "unknown"},
    }


def test_the_snapshot_has_the_newest_state_of_each_model(monitor, owner, model):
    place(model)
    never_run = Model.objects.create(tenant=model.tenant, name="new")
    with monitor(access(owner)) as ws:
        send_message(ws, MODEL_STATUS)
        states = {
            event["data"]["model_id"]: event["data"]["status"] for event in (receive_message(ws), receive_message(ws))
        }
    assert states == {model.pk: "starting", never_run.pk: "created"}


def test_strangers_are_told_nothing_and_operators_all(monitor, stranger, operator, model):
    theirs = Model.objects.create(tenant=stranger.default_tenant, name="theirs")
    with monitor(access(stranger)) as outside, monitor(access(operator)) as above:
        subscribe(outside, theirs)
        subscribe(above, theirs, model)
        announce(place(model))
        announce(place(theirs))
        assert receive_message(outside)["data"]["model_id"] == theirs.pk
        assert [receive_message(above)["data"]["model_id"] for _event in range(2)] == [model.pk, theirs.pk]


def test_an_operator_who_names_a_tenant_hears_of_it_alone(monitor, stranger, operator, model):
    theirs = Model.objects.create(tenant=stranger.default_tenant, name="theirs")
    with monitor(access(operator), headers={"Serai-Tenant": "evil"}) as ws:
        subscribe(ws, theirs)


def test_after_unsubscribing_nothing_more_is_told(monitor, owner, model):
    with monitor(access(owner)) as ws:
        subscribe(ws, model)
        assert send_message(ws, {**MODEL_STATUS, "action": "unsubscribe"})["type"] == "unsubscribed"
        announce(place(model))
        assert send_message(ws, {"action": "nothing"})["type"] == "error"


@pytest.mark.parametrize("header", ["Authorization", "X-API-Key", "message"])
def test_a_key_opens_it_in_either_header_or_the_first_message(monitor, key, model, header):
    secret = key(scopes=[Scope.READ])
    headers = {"Authorization": {"Authorization": f"Bearer {secret}"}, "X-API-Key": {"X-API-Key": secret}}
    with monitor(headers=headers.get(header, {})) as ws:
        if header == "message":
            assert send_message(ws, {"action": "authenticate", "token": secret}) == {"type": "authenticated"}
        subscribe(ws, model)


def test_a_console_log_in_opens_it_from_our_own_pages_only(monitor, operator, model):
    cookie = {"Cookie": session_cookie(operator)}
    with monitor(headers=cookie, origin=f"http://{monitor.address}") as ws:
        subscribe(ws, model)
    with monitor(headers=cookie) as ws:  # no Origin: not a page of ours, so the cookie counts for nothing
        ws.send(json.dumps(MODEL_STATUS))
        assert close_code(ws) == 4401


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "http://evil.test",
        "http://{}.evil.test",
        "http://evil{}",
        "https://{}:1",
        "http://{}/",
        "http://localhost",
    ],
)
def test_a_foreign_page_is_refused_whatever_it_brings(monitor, owner, origin):
    assert refused(monitor(access(owner), origin=origin.format(monitor.address))) == 403


def test_a_foreign_host_name_is_refused(monitor, owner):
    """A name that somebody rebinds to our address makes his page's Origin equal to its Host."""
    headers = {"Host": "evil.test", "Cookie": session_cookie(owner)}
    assert refused(monitor(headers=headers, origin="http://evil.test")) == 403


def test_configured_origins_may_connect_but_bring_a_token(monitor, owner, operator, model, settings):
    settings.CORS_ORIGINS = ["https://app.test"]
    with monitor(headers={"Cookie": session_cookie(operator)}, origin="https://app.test") as ws:
        assert send_message(ws, {"action": "authenticate", "token": access(owner)}) == {"type": "authenticated"}
        subscribe(ws, model)


@pytest.mark.parametrize("credential", ["nonsense", "sk-serai-nonsense", "eyJ.eyJ.x"])
def test_a_wrong_credential_is_refused(monitor, credential):
    assert refused(monitor(credential)) == 403
    with monitor() as ws:
        ws.send(json.dumps({"action": "authenticate", "token": credential}))
        assert close_code(ws) == 4401


def test_a_key_without_the_scope_is_refused(monitor, key):
    assert refused(monitor(key(scopes=[Scope.INFERENCE]))) == 403


def test_a_foreign_tenant_in_the_header_is_refused(monitor, owner, stranger):
    assert refused(monitor(access(owner), headers={"Serai-Tenant": "evil"})) == 403


def test_another_spelling_of_the_header_names_no_tenant(monitor, owner, stranger, tenant, model):
    services.add_member(stranger.default_tenant, owner, Role.OWNER)
    with monitor(access(owner), headers={"Serai_Tenant": "evil"}) as ws:
        subscribe(ws, model)


def test_who_does_not_sign_in_in_time_is_let_go(monitor):
    with monitor() as ws:
        assert close_code(ws) == 4401


def test_nothing_is_told_before_signing_in(monitor, model):
    with monitor() as ws:
        ws.send(json.dumps(MODEL_STATUS))
        assert close_code(ws) == 4401


def test_a_revoked_credential_ends_the_socket(monitor, operator, owner, admin, member, viewer, key):
    cookie, own_page = {"Cookie": session_cookie(operator)}, f"http://{monitor.address}"
    openings = [monitor(key()), monitor(access(admin)), monitor(access(member)), monitor(access(viewer))]
    with ExitStack() as stack:
        stays = stack.enter_context(monitor(access(owner)))
        sockets = [stack.enter_context(opening) for opening in openings]
        sockets.append(stack.enter_context(monitor(headers=cookie, origin=own_page)))
        services.revoke_key(ApiKey.objects.get())
        services.remove_member(admin.memberships.get())
        LoginSession.objects.filter(user=member).delete()
        User.objects.filter(pk=viewer.pk).update(is_active=False)
        operator.set_password("another")
        operator.save()
        assert [close_code(ws) for ws in sockets] == [4401] * 5
        assert send_message(stays, {"action": "subscribe", "events": ["gpu_metrics"]})["type"] == "subscribed"


@pytest.mark.parametrize(
    "message",
    [
        "not json", "[]", "1", "null", "{}",
        '{"action": "subscribe"}', '{"action": "delete"}', '{"action": ["subscribe"]}',
        {"action": "subscribe", "events": []}, {"action": "subscribe", "events": "model_status"},
        {"action": "subscribe", "events": ["everything"]}, {"action": "subscribe", "events": [["model_status"]]},
        {"action": "unsubscribe", "events": [None]}, {"action": "authenticate", "token": "again"},
        "[" * 20_000,
    ],
    ids=lambda message: str(message)[:40],
)  # fmt: skip
def test_a_message_that_makes_no_sense_is_answered_and_the_socket_lives(monitor, owner, model, message):
    with monitor(access(owner)) as ws:
        reply = send_message(ws, message)
        assert (reply["type"], reply["error"]["code"]) == ("error", "INVALID_REQUEST")
        subscribe(ws, model)


def test_an_unknown_event_is_answered_with_the_known_ones(monitor, owner):
    with monitor(access(owner)) as ws:
        reply = send_message(ws, {"action": "subscribe", "events": ["everything"]})
    for known in ("model_status", "gpu_metrics", "system_alerts"):
        assert known in reply["error"]["message"]


@pytest.mark.parametrize("message", ['"' + "x" * 70_000 + '"', b"bytes"], ids=["large", "binary"])
def test_a_message_that_is_too_large_or_no_text_ends_the_socket(monitor, owner, message):
    with monitor(access(owner)) as ws:
        ws.send(message)
        assert close_code(ws) == 1009


def test_there_is_no_other_socket(monitor, owner):
    for path in ("/ws/other", "/ws/monitor/", "/"):
        assert refused(monitor(access(owner), path=path)) == 403


def test_a_public_models_changes_are_told_to_every_tenant(monitor, stranger, tenant):
    shared = Model.objects.create(tenant=tenant, name="shared", visibility="public")
    with monitor(access(stranger)) as ws:
        subscribe(ws, shared)
        announce(place(shared))
        assert receive_message(ws)["data"]["status"] == "starting"


def test_a_key_that_is_limited_to_some_models_hears_of_no_others(monitor, key, model):
    other = Model.objects.create(tenant=model.tenant, name="other")
    with monitor(key(scopes=[Scope.READ], allowed_models=[model.pk])) as ws:
        subscribe(ws, model)
        announce(place(other))
        announce(place(model))
        assert receive_message(ws)["data"]["model_id"] == model.pk


def test_figures_of_single_machines_go_to_operators_and_of_all_together_to_tenants(monitor, owner, operator):
    stamp = "2026-01-01T12:00:00Z"
    for name, percent in (("one", 10.0), ("two", 30.0)):
        live = {"cpu_percent": percent, "memory_percent": percent, "disk_percent": percent, "timestamp": stamp}
        Node.objects.create(name=name, data_folder="/d", live=live, heartbeat_at=timezone.now())
    topic = {"action": "subscribe", "events": ["gpu_metrics"]}
    with monitor(access(owner)) as below, monitor(access(operator)) as above:
        assert send_message(below, topic)["type"] == send_message(above, topic)["type"] == "subscribed"
        assert {receive_message(above)["data"]["node"] for _node in range(2)} == {"one", "two"}
        shown = {"cpu_percent": 20.0, "memory_percent": 20.0, "disk_percent": 20.0, "timestamp": stamp}
        assert receive_message(below) == {"type": "host_metrics_update", "data": {"node": None, **shown}}
        events.publish_now([events.OPERATORS], "gpu_metrics_update", "one 0", {"gpu_id": 0})
        events.publish_now([events.EVERYONE], "host_metrics_update", "", {"cpu_percent": 1})
        assert receive_message(above) == {"type": "gpu_metrics_update", "data": {"gpu_id": 0}}
        assert receive_message(below) == {"type": "host_metrics_update", "data": {"cpu_percent": 1}}


def test_all_sockets_of_a_process_share_one_subscription(monitor, owner, model):
    with ExitStack() as stack:
        for _socket in range(5):
            subscribe(stack.enter_context(monitor(access(owner))), model)
        assert len(connections("pubsub")) == 1


def test_a_lost_subscription_is_made_anew_and_the_state_repeated(monitor, owner, model):
    with monitor(access(owner)) as ws:
        subscribe(ws, model)
        end(connections("pubsub"))
        assert receive_message(ws)["data"]["model_id"] == model.pk
        announce(place(model))
        assert receive_message(ws)["data"]["status"] == "starting"


class Wire:
    """A way to a server that can fall silent without closing, as one through a firewall does that forgets idle ones."""

    def __init__(self, target: tuple[str, int]):
        self._target, self._ends = target, []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.cut = threading.Event()  # of the newest connection
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, far = self._listener.accept()[0], socket.create_connection(self._target)
                self._ends += [near, far]
                self.cut = cut = threading.Event()
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=(source, sink, cut), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket, cut: threading.Event) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if not cut.is_set():
                    sink.sendall(data)

    def close(self) -> None:
        for end in [self._listener, *self._ends]:
            end.close()


@pytest.fixture
def wire(settings):
    """What is opened from now on to Valkey by an event loop goes this way."""
    url = urlsplit(settings.REDIS_URL)
    found = Wire((url.hostname, url.port))
    settings.REDIS_URL = url._replace(netloc=url.netloc.replace(f":{url.port}", f":{found.port}")).geturl()
    yield found
    found.close()


def test_a_subscription_that_was_dropped_without_a_word_is_made_anew(monitor, owner, model, wire, monkeypatch):
    """Nothing tells that it is gone: the connection stays open, and nothing comes over it any more."""
    monkeypatch.setattr("monitoring.sockets.hub.SILENCE_TIMEOUT", 0.3)
    with monitor(access(owner)) as ws:
        subscribe(ws, model)
        wire.cut.set()
        assert receive_message(ws)["data"]["model_id"] == model.pk  # the state is repeated over a new one
        announce(place(model))
        assert receive_message(ws)["data"]["status"] == "starting"


def test_a_quiet_subscription_is_kept_and_not_made_anew(monitor, owner, model, monkeypatch):
    monkeypatch.setattr("monitoring.sockets.hub.SILENCE_TIMEOUT", 0.05)
    with monitor(access(owner)) as ws:
        subscribe(ws, model)
        before = connections("pubsub")
        for _beat in range(20):
            assert send_message(ws, {"action": "nothing"})["type"] == "error"
            time.sleep(0.05)
        assert connections("pubsub") == before


def test_valkey_may_end_idle_connections(monitor, owner, model):
    """As with its setting `timeout`."""
    with monitor(access(owner)) as ws:
        subscribe(ws, model)
        end(connections("normal") | connections("pubsub"))
        assert receive_message(ws)["data"]["model_id"] == model.pk
        announce(place(model))
        assert receive_message(ws)["data"]["status"] == "starting"


def test_who_reads_nothing_is_dropped_and_the_others_are_not(monitor, owner, operator, model, monkeypatch):
    """The client's own library must not read either: a bare connection that goes silent after the handshake."""
    monkeypatch.setattr("monitoring.sockets.consumers.SEND_TIMEOUT", 1)
    event = {"model_id": model.pk, "status": "running", "note": "x" * 60_000}
    host, port = monitor.address.split(":")
    with monitor(access(owner)) as reader, socket.create_connection((host, int(port))) as silent:
        subscribe(reader, model)
        shake_hands(silent, monitor.address, access(operator))
        send_frame(silent, json.dumps(MODEL_STATUS).encode())
        while not is_cut(silent):
            events.publish_now([events.OPERATORS, model.tenant_id], "model_status_update", model.pk, event, model.pk)
            assert receive_message(reader)["data"]["status"]


def shake_hands(connection: socket.socket, host: str, token: str) -> None:
    lines = [
        "GET /ws/monitor HTTP/1.1", f"Host: {host}", "Connection: Upgrade", "Upgrade: websocket",
        "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", f"Authorization: Bearer {token}",
    ]  # fmt: skip
    connection.sendall("\r\n".join([*lines, "", ""]).encode())
    assert connection.recv(12) == b"HTTP/1.1 101"


def send_frame(connection: socket.socket, text: bytes) -> None:
    assert len(text) < 126
    connection.sendall(bytes([0x81, 0x80 | len(text), 0, 0, 0, 0]) + text)


def is_cut(connection: socket.socket) -> bool:
    """Whether the server, which is in this process, has let go of its end."""
    ours = psutil.Process().net_connections("tcp")
    return connection.getsockname() not in [tuple(end.raddr) for end in ours if end.raddr]


def test_of_two_changes_that_wait_the_later_is_told():
    box = outbox.Outbox(Actor(tenant=None, role=None, sees_all=True))
    for text in ("first", "second"):
        box.put(events.SocketEvent(frozenset(), "model_status_update", "m", text))
    assert (box.take(), box.take()) == ("second", None)


def test_a_reader_too_slow_for_the_changes_of_many_models_overflows():
    box = outbox.Outbox(Actor(tenant=None, role=None, sees_all=True))
    with pytest.raises(outbox.OutboxOverflow):
        for number in range(outbox.MAX_CHARACTERS // 1000 + 1):
            box.put(events.SocketEvent(frozenset(), "model_status_update", str(number), "x" * 1000))
