"""Engines that die, hang, lie and talk nonsense; clients that leave or do not read: answers, ledger, nothing left."""

import asyncio
import json
import logging
import socket
import time
from dataclasses import replace

import httpx
import pytest

from gateway.api.stream_relay import TokenUsage
from tests.support.gateway_server import (
    ALICE,
    CONFIG,
    MODEL,
    EngineProcess,
    chat,
    engine_folder,
    instance,
    key,
    served,
    snapshot,
)
from tests.support.waiting import eventually

# long enough for a machine that is busy with other tests
QUICK = replace(CONFIG, first_byte_timeout=1.5, idle_timeout=1.5, reply_timeout=1.5)
SECRETS = ("/secret", "engine_core", ".sock", "fake failure", "Traceback")
CHAT = "/v1/chat/completions"


@pytest.fixture
def folder():
    with engine_folder() as path:
        yield path


@pytest.fixture
def engine(folder):
    return EngineProcess(folder)


@pytest.fixture
def gateway(engine):
    with served(snapshot(instance(engine.endpoint)), QUICK) as running:
        yield running


@pytest.fixture
def client(gateway):
    with gateway.client() as session:
        yield session


def unavailable(reply, status: int = 503, code: str = "engine_unavailable") -> None:
    assert reply.status_code == status, reply.text
    assert reply.json()["error"]["code"] == code
    assert not any(secret in reply.text for secret in SECRETS)


def broken_off(reply, code: str) -> list[str]:
    """The events before the error that a stream ended with."""
    *events, last = reply.text.removesuffix("\n\n").split("\n\n")
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == code
    assert "[DONE]" not in reply.text
    assert not any(secret in reply.text for secret in SECRETS)
    return events


def last_record(gateway):
    eventually(lambda: gateway.ledger and not gateway.gateway.context.traffic.instances.busy())
    return gateway.ledger[-1]


def test_an_engine_that_dies_mid_stream_ends_it_with_an_error_and_exact_counts(gateway, client):
    reply = client.post(CHAT, json=chat("[[crash_at_token=3]][[token_interval=0.02]]", stream=True))
    assert reply.status_code == 200
    assert len(broken_off(reply, "engine_unavailable")) == 1 + 3
    record = last_record(gateway)
    assert (record.status, record.http_status, record.usage) == ("upstream_error", 200, TokenUsage(2, 3))


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/api/models/demo/chat/completions", "ENGINE_UNAVAILABLE"),
        ("/api/v1/models/demo/chat/completions", "MODEL_NOT_READY"),
    ],
)
def test_the_same_in_the_rest_surfaces_own_words(client, path, code):
    broken_off(client.post(path, json=chat("[[truncate=2]]", stream=True)), code)


def test_an_engine_that_hangs_is_each_surfaces_word_for_too_slow(client):
    late = [client.post(f"{base}/models/demo/chat/completions", json=chat("[[hang]]")) for base in ("/api", "/api/v1")]
    told = [(reply.status_code, reply.json()["error"]["code"]) for reply in late]
    assert told == [(504, "OPERATION_TIMEOUT"), (500, "INTERNAL_ERROR")]
    assert late[1].json()["error"]["details"][0]["type"] == "operation_timeout"


def test_a_stream_without_done_is_no_success(gateway, client):
    reply = client.post(CHAT, json=chat("[[truncate=2]]", stream=True))
    broken_off(reply, "engine_unavailable")
    assert last_record(gateway).status == "upstream_error"


def test_an_engines_own_error_event_is_replaced_by_ours(gateway, client):
    reply = client.post(CHAT, json=chat("[[error_at_token=2]]", stream=True))
    assert len(broken_off(reply, "engine_unavailable")) == 1 + 2
    assert last_record(gateway).usage == TokenUsage(2, 2)


def test_an_error_event_before_the_first_token_is_a_plain_answer(client):
    unavailable(client.post(CHAT, json=chat("[[error_at_token=0]]", stream=True)))


@pytest.mark.parametrize("stream", [False, True])
def test_nonsense_is_not_passed_on(gateway, client, stream):
    reply = client.post(CHAT, json=chat("[[garbage]]", stream=stream))
    if stream:
        assert len(broken_off(reply, "engine_unavailable")) == 1
    else:
        unavailable(reply)
    assert last_record(gateway).status == "upstream_error"


@pytest.mark.parametrize("stream", [False, True])
def test_an_engine_that_hangs_is_given_up_in_time(gateway, client, stream):
    unavailable(client.post(CHAT, json=chat("[[hang]]", stream=stream)), 504, "timeout")
    record = last_record(gateway)
    assert (record.status, record.http_status) == ("timeout", 504)


def test_an_engine_that_hangs_mid_stream_ends_it_with_an_error(gateway, client):
    reply = client.post(CHAT, json=chat("[[hang_at_token=2]]", stream=True))
    assert len(broken_off(reply, "timeout")) == 1 + 2
    assert last_record(gateway).status == "timeout"


def test_a_request_is_given_up_after_its_whole_time(engine):
    config = replace(CONFIG, total_timeout=0.3)
    with served(snapshot(instance(engine.endpoint)), config) as gateway, gateway.client() as client:
        reply = client.post(CHAT, json=chat("[[token_interval=0.1]]", stream=True))
        broken_off(reply, "timeout")


@pytest.mark.parametrize(("status", "expected"), [(400, 400), (404, 503), (500, 503), (503, 503), (429, 503)])
def test_what_an_engine_says_in_an_error_stays_inside(client, status, expected):
    reply = client.post(CHAT, json=chat(f"[[error_status={status}]]"))
    assert reply.status_code == expected
    assert not any(secret in reply.text for secret in SECRETS)


def test_a_very_long_line_passes(gateway, client):
    reply = client.post(CHAT, json=chat("[[huge_line=1000000]]", stream=True, max_tokens=2))
    assert reply.text.endswith("[DONE]\n\n")
    assert "x" * 1_000_000 in reply.text
    assert last_record(gateway).usage == TokenUsage(2, 2)


def test_an_engine_that_does_not_count_is_answered_for_and_counts_nothing(gateway, client):
    reply = client.post(CHAT, json=chat("[[no_usage]]", stream=True))
    assert reply.text.endswith("[DONE]\n\n")
    assert client.post(CHAT, json=chat("[[no_usage]]")).status_code == 200
    assert [record.usage for record in gateway.ledger.wait(2)] == [TokenUsage(), TokenUsage()]


# --- one more try before the first byte


def test_an_engine_that_died_is_replaced_by_another_replica(folder):
    dead, alive = EngineProcess(folder), EngineProcess(folder)
    dead.kill()
    world = snapshot(instance(dead.endpoint, 1), instance(alive.endpoint, 2))
    with served(world, QUICK) as gateway, gateway.client() as client:
        for stream in (False, True):
            assert client.post(CHAT, json=chat(stream=stream)).status_code == 200
        assert {record.instance_id for record in gateway.ledger.wait(2)} == {"instance-2"}


def test_a_request_that_kills_engines_is_sent_twice_and_no_more(folder):
    engines = [EngineProcess(folder) for _ in range(3)]
    world = snapshot(*(instance(engine.endpoint, number) for number, engine in enumerate(engines)))
    with served(world, QUICK) as gateway, gateway.client() as client:
        unavailable(client.post(CHAT, json=chat("[[crash_at_token=0]]")))
        assert last_record(gateway).status == "upstream_error"
    assert sum(engine.process.poll() is None for engine in engines) == 1


def test_nobody_there_is_said_at_once_and_with_a_time_to_come_back(folder):
    engine = EngineProcess(folder)
    engine.kill()
    with served(snapshot(instance(engine.endpoint)), QUICK) as gateway, gateway.client() as client:
        reply = client.post(CHAT, json=chat())
        unavailable(reply)
        assert int(reply.headers["retry-after"]) > 0


def test_a_new_run_of_the_engine_takes_over_as_soon_as_it_is_known(folder):
    old, new = EngineProcess(folder), EngineProcess(folder)
    old.kill()
    with served(snapshot(instance(old.endpoint)), QUICK) as gateway, gateway.client() as client:
        successor = snapshot(instance(new.endpoint, generation=2))
        gateway.loop.call_soon_threadsafe(gateway.loop.call_later, 0.2, gateway.source.publish, successor)
        assert client.post(CHAT, json=chat()).status_code == 200
        assert last_record(gateway).generation == 2


def test_a_restarted_engine_at_the_same_address_is_found_behind_dead_connections(engine, gateway, client):
    assert client.post(CHAT, json=chat()).status_code == 200
    engine.kill()
    engine.start()
    assert client.post(CHAT, json=chat()).status_code == 200


# --- clients


def leave_after(gateway, count: int, **fields) -> None:
    """Start that many streams, read the first bytes of each, and drop them all at once."""

    async def run():
        body = json.dumps(chat(stream=True, max_tokens=4000, **fields)).encode()
        request = (
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %b\r\n"
            b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (ALICE.encode(), len(body), body)
        )
        pairs = await asyncio.gather(*(asyncio.open_connection("127.0.0.1", gateway.port) for _ in range(count)))
        for _reader, writer in pairs:
            writer.write(request)
        await asyncio.gather(*(reader.readuntil(b"token0") for reader, _writer in pairs))
        for _reader, writer in pairs:
            writer.transport.abort()

    asyncio.run(run())


def test_256_clients_leaving_at_once_are_metered_and_no_trouble(folder, caplog):
    engine = EngineProcess(folder, token_interval=0.05)
    with served(snapshot(instance(engine.endpoint))) as gateway, caplog.at_level(logging.WARNING):
        leave_after(gateway, 256)
        records = gateway.ledger.wait(256)
        assert {record.status for record in records} == {"client_closed"}
        assert all(record.usage.completion >= 1 for record in records)
        eventually(lambda: engine.metric("num_requests_running") == 0)
        with gateway.client() as client:
            assert client.post(CHAT, json=chat(max_tokens=1)).status_code == 200
        assert not gateway.gateway.context.traffic.instances.busy()
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_before_the_first_byte_frees_the_engine(engine, stream):
    with served(snapshot(instance(engine.endpoint))) as gateway, gateway.client() as client:
        with pytest.raises(httpx.ReadTimeout):
            client.post(CHAT, json=chat("[[hang]]", stream=stream), timeout=0.3)
        record = last_record(gateway)
        assert (record.status, record.http_status) == ("client_closed", 499)
        eventually(lambda: engine.metric("num_requests_running") == 0)


def ask_without_reading(gateway, **fields) -> socket.socket:
    body = json.dumps(chat(**fields)).encode()
    stuck = socket.create_connection(("127.0.0.1", gateway.port), timeout=10)
    head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {ALICE}\r\ncontent-length: {len(body)}\r\n\r\n"
    stuck.sendall(head.encode() + body)
    return stuck


def bytes_left_in(stuck: socket.socket) -> int:
    """What arrives until the connection ends."""
    size = 0
    while part := stuck.recv(1 << 20):
        size += len(part)
    return size


def test_a_client_that_does_not_read_its_stream_is_cut_and_the_engine_freed(folder):
    engine = EngineProcess(folder, huge_line=4_000_000, token_interval=0.02)
    with served(snapshot(instance(engine.endpoint)), replace(CONFIG, send_timeout=0.5)) as gateway:
        stuck = ask_without_reading(gateway, stream=True, max_tokens=4000)
        assert last_record(gateway).status == "client_closed"
        eventually(lambda: engine.metric("num_requests_running") == 0)
        assert bytes_left_in(stuck) < 4_000_000


def test_an_answer_that_is_never_read_is_not_kept_for_ever(folder):
    engine = EngineProcess(folder, huge_line=8_000_000)
    with served(snapshot(instance(engine.endpoint)), replace(CONFIG, send_timeout=0.5)) as gateway:
        stuck = ask_without_reading(gateway)
        assert last_record(gateway).status == "ok"
        eventually(lambda: not gateway.gateway._lingering)
        assert bytes_left_in(stuck) < 8_000_000


@pytest.mark.parametrize("begun", [b"", b"{"])
def test_a_slow_upload_is_not_waited_for_for_ever(engine, begun):
    with served(snapshot(instance(engine.endpoint)), replace(CONFIG, body_timeout=0.3)) as gateway:
        with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as slow:
            head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {ALICE}\r\ncontent-length: 9\r\n\r\n"
            slow.sendall(head.encode() + begun)
            assert b" 408 " in slow.recv(4096)
        assert gateway.ledger == []


def test_a_stream_ends_when_its_key_is_revoked(folder):
    engine = EngineProcess(folder, token_interval=0.05)
    world = snapshot(instance(engine.endpoint), keys=[key("sk-serai-brief", "tenant-a")])
    with served(world) as gateway, gateway.client("sk-serai-brief") as client:
        gateway.loop.call_soon_threadsafe(
            gateway.loop.call_later, 0.3, gateway.source.publish, snapshot(instance(engine.endpoint))
        )
        reply = client.post(CHAT, json=chat(stream=True, max_tokens=4000))
        broken_off(reply, "invalid_api_key")
        assert last_record(gateway).usage.completion > 0


def test_a_bug_of_ours_is_a_500_with_a_request_id_and_a_trace_in_the_log(gateway, client, caplog, monkeypatch):
    monkeypatch.setattr(gateway.gateway.context.client, "post", lambda *_, **__: 1 / 0)
    reply = client.post(CHAT, json=chat())
    assert reply.status_code == 500
    assert reply.json()["error"]["type"] == "api_error"
    assert reply.headers["x-request-id"] in caplog.text
    assert reply.json()["error"]["details"] == {"request_id": reply.headers["x-request-id"]}
    assert "ZeroDivisionError" in caplog.text
    assert "ZeroDivisionError" not in reply.text
    assert last_record(gateway).status == "upstream_error"


def test_every_request_is_settled_exactly_once(gateway, client):
    started = time.time()
    for text in ("fine", "[[garbage]]", "[[truncate=1]]", "[[error_status=500]]", "[[hang]]"):
        for stream in (False, True):
            client.post(CHAT, json=chat(text, stream=stream))
    ids = [record.request_id for record in gateway.ledger.wait(10)]
    assert sorted(ids) == sorted(gateway.ledger.admitted)
    assert len(set(ids)) == 10
    assert all(record.started_at >= started for record in gateway.ledger)
    assert all(record.model_id == MODEL.id for record in gateway.ledger)
