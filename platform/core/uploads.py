"""Uploads of any size: a body that a view reads as it comes, once it knows who sends it, and drafts on disk.

Nothing of an upload is kept unless its view says so: a draft that is not moved to its place goes with the request, and
what a killed process left behind goes with a later upload.
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

from django.conf import settings
from django.core.files.uploadedfile import UploadedFile
from django.core.files.uploadhandler import FileUploadHandler
from django.utils.translation import gettext as _

from core.errors import InsufficientResources, InvalidRequest, RateLimited, TooLarge

BUFFER = 64 * 1024
STALL_SECONDS = 60.0  # that a client may send nothing
MOST_AT_ONCE = 16  # in one process: each holds a thread and a database connection
ABANDONED_SECONDS = 24 * 3600
_places = threading.BoundedSemaphore(MOST_AT_ONCE)
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class IncomingBody(io.BufferedReader):
    """What Django gets instead of a body and of the way to wait for a disconnect; read from the view's thread.

    A client that goes away shows in reading, not by cancelling the view: that would hold up the event loop until the
    view's thread has ended.
    """

    def __init__(self, receive):
        super().__init__(_Arriving(receive), BUFFER)

    async def __call__(self):
        await asyncio.Event().wait()


class _Arriving(io.RawIOBase):
    """Reading raises OSError where the client has gone or stalls."""

    def __init__(self, receive):
        self._receive, self._loop = receive, asyncio.get_running_loop()
        self._kept, self._more = memoryview(b""), True

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        while self._more and not self._kept:
            self._kept = memoryview(self._next())
        size = min(len(buffer), len(self._kept))
        buffer[:size], self._kept = self._kept[:size], self._kept[size:]
        return size

    def _next(self) -> bytes:
        self._more = False  # nothing more is asked of a connection that fails
        arriving = asyncio.run_coroutine_threadsafe(self._receive(), self._loop)
        try:
            message = arriving.result(STALL_SECONDS)
        except TimeoutError:
            arriving.cancel()
            raise
        if message["type"] == "http.disconnect":
            raise ConnectionResetError("the client has gone")
        self._more = message.get("more_body", False)
        return message.get("body", b"")


class Draft(UploadedFile):
    """An uploaded file on disk, not yet in its place. `sha256` is of what was written."""

    def __init__(self, name: str):
        folder = drafts()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _sweep(folder)
        self.path = folder / uuid.uuid4().hex
        super().__init__(open_draft(self.path), name, size=0)
        self._digest = hashlib.sha256()

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def append(self, chunk: bytes) -> None:
        """Raises InsufficientResources where the disk is full."""
        try:
            rest = memoryview(chunk)
            while rest:
                rest = rest[self.file.write(rest) :]
        except OSError as error:
            raise _told(error) from None
        self._digest.update(chunk)
        self.size += len(chunk)

    def move_to(self, place: Path) -> None:
        """Whole or not at all, even if the machine fails. Raises InsufficientResources where the disk is full."""
        try:
            os.fsync(self.file.fileno())
            place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.path.rename(place)
        except OSError as error:
            raise _told(error) from None

    def discard(self) -> None:
        """Does nothing to a file that was moved."""
        self.file.close()
        self.path.unlink(missing_ok=True)


class ToDisk(FileUploadHandler):
    """Takes the one file of a form, in the field `file`, of at most `most` bytes."""

    chunk_size = 256 * 1024

    def __init__(self, most: int):
        super().__init__()
        self.most, self.draft, self.holds_place = most, None, False

    def handle_raw_input(self, *args, **kwargs):
        """Comes before anything of the body is read."""
        if not _places.acquire(blocking=False):
            raise RateLimited(_("Too many uploads at once. Try again shortly."), retry_after=10)
        self.holds_place = True

    def new_file(self, field_name, *args, **kwargs):
        super().new_file(field_name, *args, **kwargs)
        if field_name != "file" or self.draft:
            raise InvalidRequest(_("Send one file, in the field file."), param="file")
        self.draft = Draft(self.file_name)

    def receive_data_chunk(self, raw_data, start):
        if start + len(raw_data) > self.most:
            raise TooLarge(_("The file is larger than %(most)d bytes.") % {"most": self.most})
        self.draft.append(raw_data)

    def file_complete(self, file_size):
        self.draft.seek(0)
        return self.draft

    def close(self) -> None:
        if self.draft:
            self.draft.discard()
        if self.holds_place:
            _places.release()


def drafts() -> Path:
    return settings.DATA_DIR / "uploads"


def open_draft(path: Path):
    """For nobody else to read; unbuffered, so that a full disk shows where it is written to."""
    return open(path, "x+b", buffering=0, opener=partial(os.open, mode=0o600))


def _sweep(folder: Path) -> None:
    """A draft that nobody has written to for long belongs to a process that is gone."""
    before = time.time() - ABANDONED_SECONDS
    for path in folder.iterdir():
        with suppress(FileNotFoundError):
            if path.stat().st_mtime < before:
                path.unlink()


def _told(error: OSError) -> Exception:
    return InsufficientResources(_("The disk is full.")) if error.errno in FULL else error
