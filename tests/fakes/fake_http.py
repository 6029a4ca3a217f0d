"""The fake engine's HTTP/1.1: keep-alive, whole replies, chunked events, disconnects noticed at once."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass

MAX_HEAD_BYTES = 65536


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    def json(self) -> dict:
        body = json.loads(self.body)
        if not isinstance(body, dict):
            raise ValueError("the body is no object")
        return body


class Disconnected(Exception):
    """The client has closed its connection."""


class WatchedStream(asyncio.StreamReaderProtocol):
    """Streams that also set `gone` as soon as the client disconnects."""

    def __init__(self, reader, callback, loop):
        super().__init__(reader, callback, loop)
        self.gone = asyncio.Event()

    def eof_received(self):
        self.gone.set()
        return super().eof_received()

    def connection_lost(self, exc):
        self.gone.set()
        super().connection_lost(exc)


class Connection:
    """HTTP/1.1 with keep-alive: requests in, whole replies or chunked events out."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self.reader, self.writer = reader, writer
        self.gone: asyncio.Event = writer.transport.get_protocol().gone

    async def receive(self) -> Request:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, path, _ = head[0].split(" ")
        fields = (line.partition(":") for line in head[1:])
        headers = {name.lower(): value.strip() for name, _, value in fields}
        if headers.get("transfer-encoding", "") == "chunked":
            body = b"".join([chunk async for chunk in self._chunks()])
        else:
            body = await self.reader.readexactly(int(headers.get("content-length", 0)))
        return Request(method, path.partition("?")[0], headers, body)

    async def _chunks(self) -> AsyncIterator[bytes]:
        while size := int(await self.reader.readline(), 16):
            yield (await self.reader.readexactly(size + 2))[:-2]
        await self.reader.readline()

    def reply(self, content: dict | str | bytes, status: int = 200, kind: str = "application/json") -> None:
        if isinstance(content, dict):
            content = json.dumps(content, separators=(",", ":"), ensure_ascii=False)
        body = content.encode() if isinstance(content, str) else content
        self._head(status, f"content-length: {len(body)}", kind)
        self.writer.write(body)

    def reply_half(self, content: dict) -> None:
        body = json.dumps(content).encode()
        self._head(200, f"content-length: {len(body)}", "application/json")
        self.writer.write(body[: len(body) // 2])

    async def flush(self) -> None:
        await self.writer.drain()

    def begin_events(self) -> None:
        self._head(200, "transfer-encoding: chunked", "text/event-stream; charset=utf-8")

    async def event(self, data: dict | str | bytes, name: str = "") -> None:
        if isinstance(data, dict):
            data = json.dumps(data, separators=(",", ":"), ensure_ascii=False)
        head = f"event: {name}\n".encode() if name else b""
        payload = head + b"data: " + (data.encode() if isinstance(data, str) else data) + b"\n\n"
        self.writer.write(b"%x\r\n%s\r\n" % (len(payload), payload))
        await self.writer.drain()

    def end_events(self) -> None:
        self.writer.write(b"0\r\n\r\n")

    def _head(self, status: int, length: str, kind: str) -> None:
        lines = (f"HTTP/1.1 {status} Fake", "server: uvicorn", f"content-type: {kind}", length, "", "")
        self.writer.write("\r\n".join(lines).encode())

    async def pause(self, seconds: float | None) -> None:
        """None: without end. Raises Disconnected as soon as the client disconnects."""
        if seconds == 0:
            await asyncio.sleep(0)
        try:
            if seconds != 0:
                await asyncio.wait_for(self.gone.wait(), seconds)
        except TimeoutError:
            return
        if self.gone.is_set():
            raise Disconnected


async def listen(path: str, serve) -> None:
    """Call `serve(connection)` for each connection to this Unix socket; never returns."""
    loop = asyncio.get_running_loop()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(Connection(reader, writer))
        except (asyncio.IncompleteReadError, ConnectionError, Disconnected):
            pass
        finally:
            writer.transport.abort()

    def factory() -> WatchedStream:
        return WatchedStream(asyncio.StreamReader(MAX_HEAD_BYTES), connected, loop)

    server = await loop.create_unix_server(factory, path, backlog=2048)  # uvicorn's default
    await server.serve_forever()
