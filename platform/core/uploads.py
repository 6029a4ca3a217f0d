"""Uploads of any size: a body that a view reads as it arrives, after authentication, and drafts on disk.

An upload is kept only if its view moves the draft to a final path. Other drafts are deleted when the request ends;
those of a killed process are deleted by a later upload.
"""

import asyncio
import errno
import hashlib
import io
import os
import threading
import time
import uuid
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from django.conf import settings
from django.core.files.uploadedfile import UploadedFile
from django.core.files.uploadhandler import FileUploadHandler
from django.utils.translation import gettext as _

from core.asgi_server import AsgiMessage, Receive
from core.errors import InsufficientResources, InvalidRequest, RateLimited, TooLarge

_BUFFER_BYTES = 64 * 1024
STALL_TIMEOUT = 60.0  # without data from the client, until the upload fails
MAX_UPLOADS = 16  # per process: each holds a thread and a database connection
ABANDONED_AFTER = 24 * 3600
_upload_slots = threading.BoundedSemaphore(MAX_UPLOADS)
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class IncomingBody(io.BufferedReader):
    """Replaces the body and the `receive` that waits for a disconnect; the view's thread reads it.

    If the client disconnects, a read raises an error. The view is not cancelled: that would block the event loop until
    the view's thread has ended.
    """

    def __init__(self, receive: Receive):
        super().__init__(_RawBody(receive), _BUFFER_BYTES)

    async def __call__(self) -> NoReturn:
        while True:
            await asyncio.Event().wait()


class _RawBody(io.RawIOBase):
    """Reading raises OSError if the client disconnects or stalls."""

    def __init__(self, receive: Receive):
        self._receive, self._loop = receive, asyncio.get_running_loop()
        self._buffered, self._has_more = memoryview(b""), True

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        target = memoryview(buffer)
        while self._has_more and not self._buffered:
            self._buffered = memoryview(self._receive_chunk())
        size = min(len(target), len(self._buffered))
        target[:size], self._buffered = self._buffered[:size], self._buffered[size:]
        return size

    async def _next_message(self) -> AsgiMessage:
        return await self._receive()

    def _receive_chunk(self) -> bytes:
        self._has_more = False  # a connection that fails is not read again
        future = asyncio.run_coroutine_threadsafe(self._next_message(), self._loop)
        try:
            message = future.result(STALL_TIMEOUT)
        except TimeoutError:
            future.cancel()
            raise
        if message["type"] == "http.disconnect":
            raise ConnectionResetError("the client has gone")
        self._has_more = message.get("more_body", False)
        body: bytes = message.get("body", b"")
        return body


if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

    _BinaryUpload = UploadedFile[bytes]
else:
    _BinaryUpload = UploadedFile  # generic for mypy only


class Draft(_BinaryUpload):
    """An uploaded file on disk, not yet at its final path. `sha256` is the digest of the bytes written so far."""

    size: int

    def __init__(self, name: str | None):
        folder = draft_folder()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _delete_abandoned(folder)
        self.path = folder / uuid.uuid4().hex
        self._output = open_draft(self.path)
        super().__init__(self._output, name, size=0)
        self._digest = hashlib.sha256()

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def append(self, chunk: bytes) -> None:
        """Raises InsufficientResources if the disk is full."""
        try:
            rest = memoryview(chunk)
            while rest:
                rest = rest[self._output.write(rest) :]
        except OSError as error:
            raise _translate_error(error) from None
        self._digest.update(chunk)
        self.size += len(chunk)

    def move_to(self, target: Path) -> None:
        """Move all or nothing, even if the machine crashes. Raises InsufficientResources if the disk is full."""
        try:
            os.fsync(self._output.fileno())
            target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.path.rename(target)
        except OSError as error:
            raise _translate_error(error) from None

    def discard(self) -> None:
        """Does nothing if the file was moved."""
        self._output.close()
        self.path.unlink(missing_ok=True)


class DiskUploadHandler(FileUploadHandler):
    """Accepts the one file of a form, in the field `file`, of at most `max_bytes`."""

    chunk_size = 256 * 1024

    def __init__(self, max_bytes: int):
        super().__init__()
        self.max_bytes, self.holds_slot = max_bytes, False
        self.draft: Draft | None = None

    def handle_raw_input(self, *args: Any, **kwargs: Any) -> None:
        """Called before the body is read."""
        if not _upload_slots.acquire(blocking=False):
            raise RateLimited(_("Too many uploads at once. Try again shortly."), retry_after=10)
        self.holds_slot = True

    def new_file(self, field_name: str, *args: Any, **kwargs: Any) -> None:
        super().new_file(field_name, *args, **kwargs)
        if field_name != "file" or self.draft:
            raise InvalidRequest(_("Send one file, in the field file."), param="file")
        self.draft = Draft(self.file_name)

    def receive_data_chunk(self, raw_data: bytes, start: int) -> None:
        if start + len(raw_data) > self.max_bytes:
            raise TooLarge(_("The file is larger than %(most)d bytes.") % {"most": self.max_bytes})
        if self.draft:
            self.draft.append(raw_data)

    def file_complete(self, file_size: int) -> Draft | None:
        if self.draft:
            self.draft.seek(0)
        return self.draft

    def close(self) -> None:
        if self.draft:
            self.draft.discard()
        if self.holds_slot:
            _upload_slots.release()


def draft_folder() -> Path:
    folder: Path = settings.DATA_DIR / "uploads"
    return folder


def open_draft(path: Path) -> io.FileIO:
    """Readable by this user only; unbuffered, so that a full disk raises an error in `write`."""
    return open(path, "x+b", buffering=0, opener=partial(os.open, mode=0o600))


def _delete_abandoned(folder: Path) -> None:
    """Delete drafts that were not written to for a day: their process has ended."""
    before = time.time() - ABANDONED_AFTER
    for path in folder.iterdir():
        with suppress(FileNotFoundError):
            if path.stat().st_mtime < before:
                path.unlink()


def _translate_error(error: OSError) -> Exception:
    return InsufficientResources(_("The disk is full.")) if error.errno in _DISK_FULL else error
