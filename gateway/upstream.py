"""HTTP/1.1 client for engines: callbacks over httptools, keep-alive without a limit, Unix sockets and TCP.

UpstreamFailed           the connection broke, or the reply was not HTTP
├── UpstreamUnreachable  no connection could be made: the engine has seen nothing of the request
├── UpstreamStale        a kept connection broke before any reply: most likely the engine had closed it
└── UpstreamTimeout      nothing arrived within the timeout
"""

import asyncio
import socket
from collections import deque
from urllib.parse import unquote, urlsplit

import httptools

HIGH_WATER = 256 * 1024  # bytes held for a slow client before the engine's socket is no longer read
MAX_REPLY_BYTES = 64 * 1024 * 1024
BACKLOG_RETRY_INTERVAL = 0.005
NEVER = float("inf")


class UpstreamFailed(Exception):
    pass


class UpstreamUnreachable(UpstreamFailed):
    pass


class UpstreamStale(UpstreamFailed):
    pass


class UpstreamTimeout(UpstreamFailed):
    pass


class EngineConnection(asyncio.Protocol):
    """One connection, one request at a time: from `send` to `finish` it stands for that request's reply."""

    _transport: asyncio.Transport  # from connection_made on, which comes before everything else

    def __init__(self, pool: "ConnectionPool") -> None:
        self._pool, self._loop = pool, asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._error: UpstreamFailed | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._paused = self._busy = False
        self._expires = NEVER
        self.reused = False
        self._clear()

    def _clear(self) -> None:
        self._buffer: list[bytes] = []
        self._size = 0
        self._complete = self._keep_alive = self._excess = False
        self.status, self.content_type = 0, b""

    # --- called by the event loop

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # stubs say BaseTransport
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if not self._busy or self._complete:
            return self.abort()  # bytes without a request must not become the next request's reply
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._fail(UpstreamFailed("not an HTTP reply"))
            self._transport.abort()
        if self._size > HIGH_WATER and not self._paused:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self._pool.discard(self)
        if not self._complete:
            self._fail(UpstreamFailed("the connection broke"))
        if self._timer:
            self._timer.cancel()

    # --- called by the parser

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(name) == 12 and name.lower() == b"content-type":
            self.content_type = value

    def on_message_begin(self) -> None:
        if self._complete:  # a second reply to one request: none of it may count
            self._excess, self._keep_alive = True, False

    def on_headers_complete(self) -> None:
        if not self._excess:
            self.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        if not self._excess:
            self._buffer.append(body)
            self._size += len(body)

    def on_message_complete(self) -> None:
        if self.status >= 200 and not self._excess:  # 100 and 103 only announce the reply
            self._complete, self._keep_alive = True, self._parser.should_keep_alive()

    # --- called by the request

    def send(self, head: bytes, body: bytes) -> None:
        self._clear()
        self._busy = True
        self._transport.write(b"%b%d\r\n\r\n%b" % (head, len(body), body))

    async def headers(self, timeout: float) -> int:
        """Wait at most `timeout` seconds for the status."""
        while not self.status or self.status < 200:
            await self._wait(timeout)
        return self.status

    async def chunk(self, timeout: float) -> bytes | None:
        """The next bytes of the body, None at its end. Raises UpstreamTimeout after `timeout` seconds."""
        while not self._buffer:
            if self._complete:
                return None
            await self._wait(timeout)
        data = self.received()
        if self._paused and not self._transport.is_closing():
            self._paused = False
            self._transport.resume_reading()
        return data

    def received(self) -> bytes:
        """The bytes of the body that have arrived and were not read yet."""
        parts, self._buffer, self._size = self._buffer, [], 0
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def read(self, timeout: float, max_bytes: int = MAX_REPLY_BYTES) -> bytes:
        """The whole body. More than `max_bytes` bytes are a failure of the engine."""
        parts: list[bytes] = []
        size = 0
        while (part := await self.chunk(timeout)) is not None:
            parts.append(part)
            size += len(part)
            if size > max_bytes:
                raise UpstreamFailed("the reply is too large")
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def finish(self) -> None:
        """Keep the connection if its reply was read to the end; closing it stops the engine's work."""
        self._busy = False
        if self._complete and self._keep_alive and not self._buffer and not self._transport.is_closing():
            self._pool.put_back(self)
        else:
            self.abort()

    def abort(self) -> None:
        self._transport.abort()

    def close(self) -> None:
        self._transport.close()

    @property
    def usable(self) -> bool:
        return not self._transport.is_closing()

    # --- waiting

    async def _wait(self, timeout: float) -> None:
        if self._error:
            raise self._error
        waiter = self._waiter = self._loop.create_future()
        self._expires = self._loop.time() + timeout
        if self._timer is None or self._timer.when() > self._expires:
            self._start_timer()
        try:
            await waiter
        finally:
            self._waiter, self._expires = None, NEVER

    def _start_timer(self) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer = self._loop.call_at(self._expires, self._on_timer)

    def _on_timer(self) -> None:
        """The timer is not reset while data arrives; only here is the deadline checked."""
        self._timer = None
        if self._expires == NEVER:
            return
        if self._loop.time() < self._expires:
            self._start_timer()
        else:
            self._fail(UpstreamTimeout("nothing came in time"))

    def _fail(self, error: UpstreamFailed) -> None:
        self._error = self._error or error
        if self._waiter and not self._waiter.done():
            self._waiter.set_exception(self._error)

    def _wake(self) -> None:
        ready = self._buffer or self._complete or self.status
        if ready and self._waiter and not self._waiter.done():
            self._waiter.set_result(None)


class ConnectionPool:
    """The kept connections of one endpoint."""

    def __init__(self, endpoint: str, connect_timeout: float) -> None:
        self._endpoint, self._connect_timeout = endpoint, connect_timeout
        self._idle: deque[EngineConnection] = deque()
        parts = urlsplit(endpoint)
        self._unix = unquote(parts.path) if parts.scheme == "unix" else None
        self._address = (parts.hostname or "", parts.port or 80)
        self._host = (parts.netloc or "engine").encode()
        self._heads: dict[str, bytes] = {}

    def head(self, path: str) -> bytes:
        """The request's head up to the value of X-Request-Id."""
        if path not in self._heads:
            self._heads[path] = b"POST %b HTTP/1.1\r\nhost: %b\r\ncontent-type: application/json\r\nx-request-id: " % (
                path.encode(),
                self._host,
            )
        return self._heads[path]

    async def acquire(self, *, fresh: bool) -> EngineConnection:
        while self._idle and not fresh:
            connection = self._idle.pop()
            if connection.usable:
                connection.reused = True
                return connection
        return await self.connect()

    async def connect(self) -> EngineConnection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._connect_timeout):
                if self._unix:
                    connected = await _connect_unix(self._unix)
                    return (await loop.create_unix_connection(lambda: EngineConnection(self), sock=connected))[1]
                host, port = self._address
                return (await loop.create_connection(lambda: EngineConnection(self), host, port))[1]
        except TimeoutError:
            raise UpstreamUnreachable("no connection in time") from None
        except OSError as error:
            raise UpstreamUnreachable(f"no connection: {type(error).__name__}") from error

    def put_back(self, connection: EngineConnection) -> None:
        self._idle.append(connection)

    def discard(self, connection: EngineConnection) -> None:
        if connection in self._idle:
            self._idle.remove(connection)

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()


async def _connect_unix(path: str) -> socket.socket:
    """Connect a Unix socket, with retries while the engine's backlog is full."""
    connecting = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connecting.setblocking(False)
        while True:
            try:
                connecting.connect(path)
                return connecting
            except BlockingIOError:
                await asyncio.sleep(BACKLOG_RETRY_INTERVAL)
    except BaseException:
        connecting.close()
        raise


class EngineClient:
    """Posts to engines by endpoint URL: `unix:///path` or `http://host:port`. Times are in seconds."""

    def __init__(self, connect_timeout: float = 2.0) -> None:
        self._connect_timeout = connect_timeout
        self._pools: dict[str, ConnectionPool] = {}

    async def post(
        self, endpoint: str, path: str, request_id: str, body: bytes, timeout: float, *, fresh: bool = False
    ) -> EngineConnection:
        """Send and wait at most `timeout` seconds for the reply's head. `fresh` forces a new connection.

        Raises UpstreamFailed in one of its forms.
        """
        pool = self._pools.get(endpoint)
        if pool is None:
            pool = self._pools[endpoint] = ConnectionPool(endpoint, self._connect_timeout)
        connection = await pool.acquire(fresh=fresh)
        try:
            connection.send(b"%b%b\r\ncontent-length: " % (pool.head(path), request_id.encode()), body)
            await connection.headers(timeout)
        except UpstreamTimeout:
            connection.abort()
            raise
        except UpstreamFailed as error:
            if connection.reused and not connection.status:
                raise UpstreamStale(str(error)) from error
            raise
        except BaseException:  # cancelled: a late reply must not reach the next request
            connection.abort()
            raise
        return connection

    def retain(self, endpoints: set[str]) -> None:
        """Close the connections of all other endpoints."""
        for endpoint in self._pools.keys() - endpoints:
            self._pools.pop(endpoint).close()

    def close(self) -> None:
        self.retain(set())
