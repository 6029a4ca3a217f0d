"""The engine's output in size-capped files: `engine.log`, older ones in `engine.log.1`, `engine.log.2`, …"""

import errno
import os
import time

LINE_BYTES = 65536


class Log:
    """Prefixes each line with epoch seconds. On a full disk lines are dropped and counted; nothing else fails."""

    def __init__(self, path: str, file_bytes: int, files: int):
        self.path, self.file_bytes, self.files = path, file_bytes, files
        self.dropped = 0
        self.size = 0
        self.partial = b""
        self.fd: int | None = None

    def feed(self, output: bytes) -> None:
        lines = (self.partial + output).replace(b"\r", b"\n").split(b"\n")
        self.partial = lines.pop()
        for line in filter(None, lines):
            self.write(line)
        if len(self.partial) > LINE_BYTES:
            self.flush()

    def flush(self) -> None:
        if self.partial:
            self.write(self.partial)
        self.partial = b""

    def write(self, line: bytes) -> None:
        entry = b"%.3f %s\n" % (time.time(), line)
        try:
            fd = self.open(os.O_APPEND) if self.fd is None else self.fd
            if self.size and self.size + len(entry) > self.file_bytes:
                fd = self.rotate(fd)
            self.append(fd, entry)
        except OSError:
            self.dropped += 1

    def open(self, flags: int) -> int:
        flags |= os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = self.fd = os.open(self.path, flags, 0o600)
        self.size = os.fstat(fd).st_size
        return fd

    def append(self, fd: int, entry: bytes) -> None:
        if os.write(fd, entry) < len(entry):
            os.ftruncate(fd, self.size)
            raise OSError(errno.ENOSPC, "the line did not fit")
        self.size += len(entry)

    def rotate(self, fd: int) -> int:
        os.close(fd)
        self.fd = None
        names = [self.path] + [f"{self.path}.{number}" for number in range(1, self.files)]
        for number in range(len(names) - 1, 0, -1):
            if os.path.exists(names[number - 1]):
                os.replace(names[number - 1], names[number])
        return self.open(os.O_APPEND | os.O_TRUNC)
