"""Compressed request bodies, decoded as they arrive: no more is held in memory than a plain body may have."""

import zlib
from typing import Protocol

from django.utils.text import format_lazy
from django.utils.translation import gettext_lazy as _

from core.errors import InvalidRequest, TooLarge
from gateway.errors import UnsupportedEncoding

# Window sizes of zlib. Python has no reader of zstd before 3.14, and no locked package brings one.
GZIP, ZLIB, RAW = 31, 15, -15
WINDOWS = {"gzip": GZIP, "x-gzip": GZIP, "deflate": ZLIB}
NOT_ENCODED = ("", "identity")


class BodyDecoder(Protocol):
    """Decodes a body part by part. `finish` raises InvalidRequest for a body that broke off."""

    def feed(self, data: bytes) -> bytes: ...

    def finish(self) -> None: ...


class PlainBody:
    def feed(self, data: bytes) -> bytes:
        return data

    def finish(self) -> None:
        """A plain body has no end of its own."""


class CompressedBody:
    """One stream of `encoding`, which may have at most `max_bytes` when decoded."""

    def __init__(self, encoding: str, max_bytes: int) -> None:
        self._encoding, self._left = encoding, max_bytes
        self._inflate = zlib.decompressobj(WINDOWS[encoding])
        self._begun = False

    def feed(self, data: bytes) -> bytes:
        if not data:
            return b""
        if not self._begun:
            self._begin(data)
        try:
            out = self._inflate.decompress(data, self._left + 1)
        except zlib.error:
            raise self._invalid() from None
        self._left -= len(out)
        if self._left < 0:
            raise TooLarge()
        if self._inflate.unused_data:
            raise self._invalid()
        return out

    def finish(self) -> None:
        if not self._inflate.eof:
            raise self._invalid()

    def _begin(self, data: bytes) -> None:
        """Some clients leave out the frame of `deflate`, whose first byte names the method 8."""
        self._begun = True
        if WINDOWS[self._encoding] == ZLIB and data[0] & 15 != 8:
            self._inflate = zlib.decompressobj(RAW)

    def _invalid(self) -> InvalidRequest:
        return InvalidRequest(format_lazy(_("The body is not valid {encoding}."), encoding=self._encoding), status=400)


def body_decoder(content_encoding: bytes, max_bytes: int) -> BodyDecoder:
    """What decodes a body with this header. Raises UnsupportedEncoding, with those that are read."""
    encoding = content_encoding.decode("latin-1").strip().lower()
    if encoding in NOT_ENCODED:
        return PlainBody()
    if encoding not in WINDOWS:
        raise UnsupportedEncoding()
    return CompressedBody(encoding, max_bytes)
