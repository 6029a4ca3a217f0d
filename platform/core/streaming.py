"""Django's handler, for bodies and answers that do not fit its way of having all of both at once.

Event streams hold no thread and no database connection while they last: a view decides who gets in, as any other does,
and answers with an EventStream. Its events begin when Django has finished with the request. Uploads reach their view as
they come (core/uploads.py).
"""

import asyncio
import os
import tarfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import BinaryIO
from weakref import WeakKeyDictionary

from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.handlers.asgi import ASGIHandler
from django.db import connections
from django.http import HttpResponse, StreamingHttpResponse
from django.utils.translation import gettext_lazy as _
from rest_framework.negotiation import BaseContentNegotiation

from core.errors import NotFound, RateLimited
from core.refusals import refusal
from core.transport import abandon
from core.uploads import IncomingBody

MOST_PER_HOLDER = 200
AT_ONCE, UPLOADS_AT_ONCE = 32, 20
HEARTBEAT_SECONDS = 15.0
PIECE = 256 * 1024
TAR_BLOCK, TAR_END = tarfile.BLOCKSIZE, bytes(2 * tarfile.BLOCKSIZE)
COMMENT = b": heartbeat\n\n"


class EventStream(HttpResponse):
    """`events` is called when the stream begins; `holder` is whose streams are counted together."""

    def __init__(self, events: Callable[[], AsyncIterator[bytes]], holder: str):
        super().__init__(content_type="text/event-stream; charset=utf-8")
        self.events, self.holder = events, holder
        self["Cache-Control"] = "no-store"
        self["X-Accel-Buffering"] = "no"  # a proxy that collects output would keep events back


class FileStream(StreamingHttpResponse):
    """A file as it lies on disk, never in memory as a whole. Raises NotFound."""

    def __init__(self, path: Path, content_type: str):
        file = _opened(path)
        super().__init__(_pieces(file), content_type=content_type)
        self["Content-Length"] = str(os.fstat(file.fileno()).st_size)


class ArchiveStream(StreamingHttpResponse):
    """A tar of files by their names in it, made while it is read. Raises NotFound."""

    def __init__(self, paths: dict[str, Path], filename: str):
        members = [_member(name, path) for name, path in paths.items()]
        size = sum(len(header) + -(-file_size // TAR_BLOCK) * TAR_BLOCK for header, _file, file_size in members)
        super().__init__(_archive(members), content_type="application/x-tar")
        self["Content-Length"] = str(size + len(TAR_END))
        self["Content-Disposition"] = f'attachment; filename="{filename}"'


def _opened(path: Path) -> BinaryIO:
    """A link in its place is followed nowhere."""
    try:
        return os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb")
    except OSError:
        raise NotFound(_("The file is gone.")) from None


def _member(name: str, path: Path) -> tuple[bytes, BinaryIO, int]:
    """Opened at once: what is deleted meanwhile is still sent as a whole."""
    file = _opened(path)
    entry = tarfile.TarInfo(name)
    entry.size = os.fstat(file.fileno()).st_size
    return entry.tobuf(), file, entry.size


async def _archive(members: list[tuple[bytes, BinaryIO, int]]) -> AsyncIterator[bytes]:
    for header, file, size in members:
        yield header
        async for piece in _pieces(file):
            yield piece
        yield bytes(-size % TAR_BLOCK)
    yield TAR_END


async def _pieces(file: BinaryIO) -> AsyncIterator[bytes]:
    with file:
        while piece := await asyncio.to_thread(file.read, PIECE):
            yield piece


class JsonWhateverIsAccepted(BaseContentNegotiation):
    """EventSource accepts `text/event-stream` alone; a refusal is JSON for it too."""

    def select_parser(self, request, parsers):
        return next((parser for parser in parsers if request.content_type.startswith(parser.media_type)), None)

    def select_renderer(self, request, renderers, format_suffix=None):
        return renderers[0], renderers[0].media_type


class _Held:
    """Django's way to the client; keeps an event stream back until Django is done."""

    def __init__(self, send):
        self.send, self.stream = send, None

    async def __call__(self, message) -> None:
        await self.send(message)


class Handler(ASGIHandler):
    """Django's own handler, which lets go of a request before its events begin. `uploads` are paths."""

    def __init__(self, uploads: Iterable[str] = ()):
        super().__init__()
        self._uploads = frozenset(uploads)
        self._open = Counter()
        self._rooms: WeakKeyDictionary[asyncio.AbstractEventLoop, dict] = WeakKeyDictionary()

    async def __call__(self, scope, receive, send):
        held = _Held(send)
        await super().__call__(scope, receive, held)
        if held.stream is not None:
            await self._stream(scope, held.stream, receive, send)

    async def handle(self, scope, receive, send):
        upload = scope["path"] in self._uploads
        await super().handle(scope, IncomingBody(receive) if upload else receive, send)

    async def run_get_response(self, request):
        """The connection belongs to the request's own thread: left open, it would be of use to nobody."""
        async with self._room_for(request):
            response = await super().run_get_response(request)
            await sync_to_async(connections.close_all)()
        return response

    def _room_for(self, request) -> asyncio.Semaphore:
        """A few at a time: each has a thread and a database connection, and a crowd would use up all there are.

        Uploads, which take as long as their clients like, must not keep the others waiting: they have room of their
        own, more than may be under way (core/uploads.py), so that a refusal always finds some.
        """
        upload = request.method == "POST" and request.path in self._uploads
        rooms = self._rooms.setdefault(asyncio.get_running_loop(), {})
        return rooms.setdefault(upload, asyncio.Semaphore(UPLOADS_AT_ONCE if upload else AT_ONCE))

    async def read_body(self, receive):
        return receive if isinstance(receive, IncomingBody) else await super().read_body(receive)

    async def send_response(self, response, send):
        if isinstance(response, EventStream):
            send.stream = response
        else:
            await super().send_response(response, send)

    async def _stream(self, scope, stream: EventStream, receive, send) -> None:
        if self._open[stream.holder] >= MOST_PER_HOLDER:
            too_many = RateLimited(_("Too many open streams. Close one first."), retry_after=10)
            return await super().send_response(refusal(scope, too_many), send)
        with self._counted(stream.holder):
            await relay(stream, receive, send)

    @contextmanager
    def _counted(self, holder: str):
        self._open[holder] += 1
        try:
            yield
        finally:
            self._open[holder] -= 1
            if not self._open[holder]:
                del self._open[holder]


async def relay(stream: EventStream, receive, send) -> None:
    """Until the events end or the client is gone; a client that does not read is dropped."""
    tasks = [asyncio.create_task(_write(stream, send)), asyncio.create_task(_until_gone(receive))]
    try:
        done, _pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()  # raises what went wrong
    except TimeoutError:
        abandon(send)
    finally:
        for task in tasks:
            await _end(task)


async def _end(task: asyncio.Task) -> None:
    """Asked more than once: before Python 3.12 `asyncio.wait_for`, which redis-py uses, may swallow a cancellation."""
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=0.5)


async def _write(stream: EventStream, send) -> None:
    """Raises TimeoutError where nothing could be sent for a while. Nothing is read ahead of the client."""
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


async def _until_gone(receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
