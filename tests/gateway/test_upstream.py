"""The client towards engines: kept connections, limits, back-pressure, and never another request's bytes."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from gateway import upstream
from gateway.upstream import EngineClient, UpstreamFailed, UpstreamStale, UpstreamTimeout, UpstreamUnreachable
from tests.support.gateway_server import EngineProcess, engine_folder

OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\nok"


class Script:
    """A server that answers the n-th request (over all connections) with the n-th piece of its script.

    Bytes are written, None closes the connection, a number is a pause in seconds.
    """

    def __init__(self, *answers):
        self.answers, self.connections, self.requests, self.gone = list(answers), 0, [], 0

    async def __call__(self, reader, writer):
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                self.requests.append(head + await reader.readexactly(length))
                await self._answer(self.answers.pop(0), writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            self.gone += 1
        finally:
            writer.close()

    async def _answer(self, answer, writer):
        for part in answer if isinstance(answer, list) else [answer]:
            if part is None:
                raise ConnectionAbortedError
            if isinstance(part, bytes):
                writer.write(part)
                await writer.drain()
            else:
                await asyncio.sleep(part)


@asynccontextmanager
async def scripted(*answers):
    script = Script(*answers)
    server = await asyncio.start_server(script, "127.0.0.1", 0)
    client = EngineClient(connect_timeout=60)  # nothing here is about how soon a busy machine connects
    try:
        yield script, client, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        client.close()
        server.close()


async def ask(client: EngineClient, endpoint: str, limit: float = 5, **options) -> upstream.EngineConnection:
    return await client.post(endpoint, "/v1/completions", "request-1", b"{}", limit, **options)


async def whole(client: EngineClient, endpoint: str, limit: float = 5, **options) -> bytes:
    connection = await ask(client, endpoint, limit, **options)
    try:
        return await connection.read(limit)
    finally:
        connection.finish()


async def test_a_request_carries_our_id_and_its_connection_is_kept():
    async with scripted(OK, OK, OK) as (script, client, endpoint):
        for _ in range(3):
            assert await whole(client, endpoint) == b"ok"
        assert script.connections == 1
        assert b"POST /v1/completions HTTP/1.1\r\n" in script.requests[0]
        assert b"x-request-id: request-1\r\n" in script.requests[0]


async def test_requests_at_the_same_time_have_connections_of_their_own_without_a_cap():
    async with scripted(*[[0.05, OK]] * 150) as (script, client, endpoint):
        assert await asyncio.gather(*(whole(client, endpoint) for _ in range(150))) == [b"ok"] * 150
        assert script.connections == 150


async def test_a_kept_connection_that_was_closed_meanwhile_is_told_apart():
    async with scripted(OK, None, OK) as (_script, client, endpoint):
        await whole(client, endpoint)
        with pytest.raises(UpstreamStale):
            await whole(client, endpoint)
        assert await whole(client, endpoint, fresh=True) == b"ok"


async def test_an_engine_that_dies_at_a_new_connection_is_no_stale_one():
    async with scripted(None) as (_script, client, endpoint):
        with pytest.raises(UpstreamFailed) as caught:
            await whole(client, endpoint)
        assert type(caught.value) is UpstreamFailed


async def test_nobody_at_the_address():
    client = EngineClient(connect_timeout=1)
    for endpoint in ("unix:///nowhere/engine.sock", "http://127.0.0.1:1"):
        with pytest.raises(UpstreamUnreachable):
            await ask(client, endpoint)


async def test_a_reply_cut_short_is_a_failure_and_not_a_reply():
    half = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf"
    chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n"
    for cut in (half, chunked):
        async with scripted([cut, None]) as (_script, client, endpoint):
            with pytest.raises(UpstreamFailed):
                await whole(client, endpoint)


@pytest.mark.parametrize(
    "garbage",
    [b"hello\r\n\r\n", b"\x00" * 100, b"HTTP/1.1 999999 X\r\n\r\n",
     b"HTTP/1.1 101 X\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n"],
)  # fmt: skip
async def test_what_is_no_http_is_a_failure(garbage):
    async with scripted([garbage, 5]) as (_script, client, endpoint):
        with pytest.raises(UpstreamFailed):
            await whole(client, endpoint, limit=0.5)


async def test_silence_ends_with_the_limit_before_and_after_the_head():
    begun = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nb"
    async with scripted([5], [begun, 5]) as (_script, client, endpoint):
        with pytest.raises(UpstreamTimeout):
            await ask(client, endpoint, limit=0.05)
        connection = await ask(client, endpoint)
        assert await connection.chunk(5) == b"b"
        with pytest.raises(UpstreamTimeout):
            await connection.chunk(0.05)
        connection.finish()


async def test_the_limit_is_on_silence_not_on_the_whole_reply():
    slow = [b"HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\n"]
    for _ in range(20):
        slow += [0.02, b"x"]
    async with scripted(slow) as (_script, client, endpoint):
        assert await whole(client, endpoint, limit=0.3) == b"x" * 20


async def test_bytes_that_nobody_asked_for_never_become_the_next_reply():
    extra = OK + OK.replace(b"ok", b"NO")
    async with scripted(extra, OK) as (script, client, endpoint):
        assert await whole(client, endpoint) == b"ok"
        assert await whole(client, endpoint) == b"ok"
        assert script.connections == 2


async def test_a_cancelled_request_takes_its_connection_with_it():
    async with scripted(OK, [0.2, OK.replace(b"ok", b"NO")], OK) as (script, client, endpoint):
        await whole(client, endpoint)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(whole(client, endpoint), 0.05)
        assert await whole(client, endpoint) == b"ok"
        assert script.connections == 2


async def test_a_reply_left_half_read_closes_the_connection_so_that_the_engine_stops():
    begun = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nb"
    async with scripted([begun]) as (script, client, endpoint):
        connection = await ask(client, endpoint)
        await connection.chunk(5)
        connection.finish()
        async with asyncio.timeout(5):
            while not script.gone:
                await asyncio.sleep(0.01)


async def test_an_engine_is_not_read_faster_than_the_client_reads():
    size = 64 * 1024 * 1024
    head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size
    async with scripted([head, b"x" * size]) as (_script, client, endpoint):
        connection = await ask(client, endpoint)
        await asyncio.sleep(0.3)
        first = await connection.chunk(5)
        assert len(first) < 4 * upstream.HIGH_WATER
        rest = await connection.read(5, max_bytes=size)
        assert len(first) + len(rest) == size
        connection.finish()


async def test_a_reply_without_end_is_given_up():
    head = b"HTTP/1.1 200 OK\r\ncontent-length: 5000\r\n\r\n"
    async with scripted([head, b"x" * 5000]) as (_script, client, endpoint):
        connection = await ask(client, endpoint)
        with pytest.raises(UpstreamFailed):
            await connection.read(5, max_bytes=1000)


async def test_an_informational_reply_only_announces_the_real_one():
    async with scripted(b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK, OK) as (script, client, endpoint):
        assert await whole(client, endpoint) == b"ok"
        assert await whole(client, endpoint) == b"ok"
        assert script.connections == 1


async def test_engines_that_are_no_more_are_let_go_of():
    async with scripted(OK) as (script, client, endpoint):
        await whole(client, endpoint)
        client.retain({"unix:///other"})
        async with asyncio.timeout(5):
            while not script.gone:
                await asyncio.sleep(0.01)


async def test_an_engine_on_a_unix_socket_is_killed_and_comes_back():
    with engine_folder() as folder:
        engine, client = EngineProcess(folder), EngineClient()
        body = b'{"prompt": "x", "max_tokens": 1}'
        for _ in range(2):
            connection = await client.post(engine.endpoint, "/v1/completions", "r", body, 10, fresh=True)
            assert b'"text":"token0"' in await connection.read(10)
            connection.finish()
            engine.kill()
            with pytest.raises(UpstreamUnreachable):
                await client.post(engine.endpoint, "/v1/completions", "r", body, 10, fresh=True)
            engine.start()
        engine.kill()
        client.close()
