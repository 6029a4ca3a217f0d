"""Compressed request bodies over HTTP: read in the usual encodings, never larger than a plain body may be."""

import gzip
import json
import tracemalloc
import zlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import TooLarge
from gateway.body_decoding import body_decoder
from tests.support.gateway_server import CONFIG, EngineProcess, chat, engine_folder, instance, served, snapshot

CHAT, MESSAGE = "/v1/chat/completions", "/v1/messages"
LIMIT = 100_000


def raw_deflate(data: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-15)
    return stream.compress(data) + stream.flush()


ENCODERS = {"gzip": gzip.compress, "x-gzip": gzip.compress, "GZIP": gzip.compress, "deflate": zlib.compress}


@pytest.fixture(scope="module")
def gateway():
    with (
        engine_folder() as folder,
        served(snapshot(instance(EngineProcess(folder).endpoint)), replace(CONFIG, max_body=LIMIT)) as running,
    ):
        yield running


@pytest.fixture
def client(gateway):
    gateway.ledger.clear()
    with gateway.client() as session:
        yield session


def send(client, content, encoding: str, path: str = CHAT):
    return client.post(path, content=content, headers={"content-encoding": encoding})


BODY = json.dumps(chat("[[echo]] compressed", max_tokens=2)).encode()


@pytest.mark.parametrize(("encoding", "encode"), [*ENCODERS.items(), ("deflate", raw_deflate), ("identity", bytes)])
def test_a_compressed_body_is_read_whole_and_in_pieces(client, encoding, encode):
    coded = encode(BODY)
    for content in (coded, (coded[at : at + 7] for at in range(0, len(coded), 7))):
        reply = send(client, content, encoding)
        assert reply.status_code == 200
        assert "compressed" in reply.text


@pytest.mark.parametrize("encoding", ["zstd", "br", "gzip, deflate", "gzip, gzip", "no such thing"])
def test_other_encodings_are_refused_with_those_that_are_read(client, gateway, encoding):
    reply = send(client, BODY, encoding)
    assert (reply.status_code, reply.headers["accept-encoding"]) == (415, "gzip, deflate")
    assert (reply.json()["error"]["type"], "gzip, deflate" in reply.json()["error"]["message"]) == (
        "invalid_request_error", True,
    )  # fmt: skip
    other = send(client, BODY, encoding, MESSAGE)
    assert (other.status_code, other.json()["type"]) == (415, "error")
    assert gateway.ledger == []


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
@pytest.mark.parametrize(
    "break_it", [lambda coded: coded[:-3], lambda coded: coded + b"more", lambda _coded: BODY, lambda _coded: b""]
)
def test_what_is_not_in_its_encoding_is_a_bad_request(client, encoding, break_it):
    reply = send(client, break_it(ENCODERS[encoding](BODY)), encoding)
    assert reply.status_code == 400
    assert encoding in reply.json()["error"]["message"]


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_bomb_is_too_large(client, gateway, encoding):
    bomb = ENCODERS[encoding](b" " * 50_000_000)
    assert len(bomb) < LIMIT
    assert send(client, bomb, encoding).status_code == 413
    assert send(client, ENCODERS[encoding](b" " * (LIMIT - len(BODY)) + BODY), encoding).status_code == 200
    assert len(gateway.ledger.wait()) == 1


def test_a_bomb_is_never_held_in_memory():
    bomb = gzip.compress(b" " * 200_000_000)
    tracemalloc.start()
    try:
        with pytest.raises(TooLarge):
            body_decoder(b"gzip", LIMIT).feed(bomb)
        assert tracemalloc.get_traced_memory()[1] < 10 * LIMIT
    finally:
        tracemalloc.stop()


def test_a_credential_is_asked_for_before_a_body_is_decoded(gateway):
    with gateway.client(None) as nobody:
        assert send(nobody, BODY, "zstd").status_code == 401


@given(data=st.binary(max_size=2000), cuts=st.lists(st.integers(0, 2000), max_size=6))
def test_the_body_is_the_same_whatever_the_network_does_to_it(data, cuts):
    for encoding, encode in ENCODERS.items():
        coded, decoder = encode(data), body_decoder(encoding.encode(), 2000)
        edges = [0, *sorted(cuts), len(coded)]
        parts = [decoder.feed(coded[start:end]) for start, end in zip(edges, edges[1:], strict=False)]
        decoder.finish()
        assert b"".join(parts) == data
