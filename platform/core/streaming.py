"""Django's handler, for request bodies and responses that cannot be held in memory as a whole.

An event stream holds no thread and no database connection: its view authorizes the caller as any other view does and
returns an EventStream. Its events start when Django has finished the request. Uploads reach their view as they arrive
(core/uploads.py).
"""

import asyncio
import os
import tarfile
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import IO, BinaryIO
from weakref import WeakKeyDictionary

from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.handlers.asgi import ASGIHandler
from django.db import connections
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.utils.translation import gettext_lazy as _
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.parsers import BaseParser
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request

from core.asgi_errors import error_response
from core.asgi_server import AsgiMessage, AsgiScope, Receive, Send, drop_client
from core.errors import NotFound, RateLimited
from core.uploads import IncomingBody

MAX_STREAMS_PER_OWNER = 200
MAX_REQUESTS, MAX_UPLOADS = 32, 20
HEARTBEAT_INTERVAL = 15.0
_CHUNK_BYTES = 256 * 1024
TAR_BLOCK, TAR_END = tarfile.BLOCKSIZE, bytes(2 * tarfile.BLOCKSIZE)
HEARTBEAT_COMMENT = b": heartbeat\n\n"


class EventStream(HttpResponse):
    """`events` is called when the stream starts. Streams with the same `owner` are counted together."""

    def __init__(self, events: Callable[[], AsyncGenerator[bytes]], owner: str):
        super().__init__(content_type="text/event-stream; charset=utf-8")
        self.events, self.owner = events, owner
        self["Cache-Control"] = "no-store"
        self["X-Accel-Buffering"] = "no"  # a proxy that buffers output would delay events


class FileStream(StreamingHttpResponse):
    """A file from disk, never in memory as a whole. Raises NotFound."""

    def __init__(self, path: Path, content_type: str):
        file = _open_file(path)
        super().__init__(_file_chunks(file), content_type=content_type)
        self["Content-Length"] = str(os.fstat(file.fileno()).st_size)


class ArchiveStream(StreamingHttpResponse):
    """A tar of files (name in the archive -> path), made while it is sent. Raises NotFound."""

    def __init__(self, paths: dict[str, Path], filename: str):
        members = [_open_member(name, path) for name, path in paths.items()]
        size = sum(len(header) + -(-file_size // TAR_BLOCK) * TAR_BLOCK for header, _file, file_size in members)
        super().__init__(_archive_chunks(members), content_type="application/x-tar")
        self["Content-Length"] = str(size + len(TAR_END))
        self["Content-Disposition"] = f'attachment; filename="{filename}"'


def _open_file(path: Path) -> BinaryIO:
    """Symbolic links are not followed. Raises NotFound."""
    try:
        return os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb")
    except OSError:
        raise NotFound(_("The file is gone.")) from None


def _open_member(name: str, path: Path) -> tuple[bytes, BinaryIO, int]:
    """Opens the file now, so that it is sent whole even if it is deleted meanwhile."""
    file = _open_file(path)
    entry = tarfile.TarInfo(name)
    entry.size = os.fstat(file.fileno()).st_size
    return entry.tobuf(), file, entry.size


async def _archive_chunks(members: list[tuple[bytes, BinaryIO, int]]) -> AsyncIterator[bytes]:
    for header, file, size in members:
        yield header
        async for chunk in _file_chunks(file):
            yield chunk
        yield bytes(-size % TAR_BLOCK)
    yield TAR_END


async def _file_chunks(file: BinaryIO) -> AsyncIterator[bytes]:
    with file:
        while chunk := await asyncio.to_thread(file.read, _CHUNK_BYTES):
            yield chunk


class AlwaysJson(BaseContentNegotiation):
    """EventSource accepts only `text/event-stream`; it gets errors as JSON too."""

    def select_parser(self, request: Request, parsers: Iterable[BaseParser]) -> BaseParser | None:
        return next((parser for parser in parsers if request.content_type.startswith(parser.media_type)), None)

    def select_renderer(
        self, request: Request, renderers: Iterable[BaseRenderer], format_suffix: str | None = None
    ) -> tuple[BaseRenderer, str]:
        first = next(iter(renderers))
        return first, first.media_type


class _HeldSend:
    """The `send` that Django gets. It keeps an event stream until Django has finished the request."""

    def __init__(self, send: Send):
        self.send = send
        self.stream: EventStream | None = None

    async def __call__(self, message: AsgiMessage) -> None:
        await self.send(message)


class StreamingHandler(ASGIHandler):
    """Django's handler, which finishes a request before its events start. `uploads` are paths."""

    def __init__(self, uploads: Iterable[str] = ()):
        super().__init__()
        self._uploads = frozenset(uploads)
        self._open_streams: Counter[str] = Counter()
        self._slots: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[bool, asyncio.Semaphore]] = WeakKeyDictionary()

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        held_send = _HeldSend(send)
        await super().__call__(scope, receive, held_send)
        if held_send.stream is not None:
            await self._stream(scope, held_send.stream, receive, send)

    async def handle(self, scope: AsgiScope, receive: Receive, send: Send) -> HttpResponseBase | None:
        upload = scope["path"] in self._uploads
        return await super().handle(scope, IncomingBody(receive) if upload else receive, send)

    async def run_get_response(self, request: HttpRequest) -> HttpResponseBase:
        """Closes the database connection: it belongs to the request's own thread, so no other request can use it."""
        async with self._slots_for(request):
            response = await super().run_get_response(request)
            await sync_to_async(connections.close_all)()
        return response

    def _slots_for(self, request: HttpRequest) -> asyncio.Semaphore:
        """Limits concurrent requests: each holds a thread and a database connection, and both are scarce.

        Slow uploads must not block other requests, so they have slots of their own: more than the uploads that may run
        (core/uploads.py), so that one more can be answered with an error.
        """
        upload = request.method == "POST" and request.path in self._uploads
        slots = self._slots.setdefault(asyncio.get_running_loop(), {})
        return slots.setdefault(upload, asyncio.Semaphore(MAX_UPLOADS if upload else MAX_REQUESTS))

    async def read_body(self, receive: Receive) -> IO[bytes]:
        return receive if isinstance(receive, IncomingBody) else await super().read_body(receive)

    async def send_response(self, response: HttpResponseBase, send: Send) -> None:
        if isinstance(response, EventStream) and isinstance(send, _HeldSend):
            send.stream = response
        else:
            await super().send_response(response, send)

    async def _stream(self, scope: AsgiScope, stream: EventStream, receive: Receive, send: Send) -> None:
        if self._open_streams[stream.owner] >= MAX_STREAMS_PER_OWNER:
            too_many = RateLimited(_("Too many open streams. Close one first."), retry_after=10)
            return await super().send_response(error_response(scope, too_many), send)
        with self._count_stream(stream.owner):
            await relay(stream, receive, send)

    @contextmanager
    def _count_stream(self, owner: str) -> Iterator[None]:
        self._open_streams[owner] += 1
        try:
            yield
        finally:
            self._open_streams[owner] -= 1
            if not self._open_streams[owner]:
                del self._open_streams[owner]


async def relay(stream: EventStream, receive: Receive, send: Send) -> None:
    """Send events until they end or the client disconnects; a client that does not read is dropped."""
    tasks = [asyncio.create_task(_send_events(stream, send)), asyncio.create_task(_wait_for_disconnect(receive))]
    try:
        done, _pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()  # raises the task's exception
    except TimeoutError:
        drop_client(send)
    finally:
        for task in tasks:
            await _cancel(task)


async def _cancel(task: asyncio.Task[None]) -> None:
    """Cancels repeatedly: before Python 3.12 `asyncio.wait_for`, which redis-py uses, may swallow a cancellation."""
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=0.5)


async def _send_events(stream: EventStream, send: Send) -> None:
    """Each event is produced when the client has taken the one before. Raises TimeoutError if a send takes too long."""
    headers = [
        (name.lower().encode("latin-1"), value.encode("latin-1"))
        for name, value in stream.items()
        if name != "Content-Length"
    ]
    await send({"type": "http.response.start", "status": stream.status_code, "headers": headers})
    async with aclosing(stream.events()) as events:
        async for event in events:
            async with asyncio.timeout(settings.GATEWAY_SEND_TIMEOUT):
                await send({"type": "http.response.body", "body": event, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
