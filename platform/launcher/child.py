"""One supervised process: start it, relay its output, notice its end, stop it."""

import asyncio
import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Mapping

from launcher.console import Console
from launcher.service import Service

POLL_INTERVAL = 0.1
RELAY_TIMEOUT = 1
MAX_LINE_BYTES = 64 * 1024
MAX_KEPT_LINES = 50


class Child:
    """A service and its current process. `lines` are its last lines of output; `quiet` does not print them."""

    def __init__(self, service: Service, environment: Mapping[str, str], console: Console, quiet: bool = False):
        self.service, self.environment, self.console, self.quiet = service, environment, console, quiet
        self.lines: deque[str] = deque(maxlen=MAX_KEPT_LINES)
        self._process: subprocess.Popen[bytes] | None = None
        self._relay_task: asyncio.Task[None] | None = None
        self.started = 0.0

    async def start(self) -> None:
        """Start in a new session, which Ctrl-C does not reach: the supervisor stops the services in order."""
        self._process = subprocess.Popen(
            self.service.command,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **{"stdin": subprocess.DEVNULL, **self.service.options},
        )
        self.started = time.monotonic()
        self._relay_task = asyncio.create_task(self._relay(self._process.stdout))

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The current process, or the last one; for a child that was started."""
        assert self._process is not None
        return self._process

    @property
    def has_ended(self) -> bool:
        """Result of the last poll: unlike `is_running` it does not poll, so two reads in a row agree."""
        return self._process is not None and self._process.returncode is not None

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def exit_text(self) -> str:
        code = self.process.returncode
        if code >= 0:
            return f"exit code {code}"
        names = [number.name for number in signal.Signals if number == -code]
        return names[0] if names else f"signal {-code}"

    async def wait(self) -> int:
        """Polls, because a grandchild may keep the output pipe open after the child has ended."""
        while self.is_running:
            await asyncio.sleep(POLL_INTERVAL)
        if self._relay_task:
            await asyncio.wait([self._relay_task], timeout=RELAY_TIMEOUT)  # for its last lines
        return self.process.returncode

    async def stop(self, force: asyncio.Event) -> None:
        """Send the stop signal, wait for the service's time limit or for `force`, then kill the whole process group."""
        if not self.is_running:
            return
        if not force.is_set():
            self.process.send_signal(self.service.stop_signal)
            await self._wait_for_end(force)
        if self.is_running and not force.is_set():
            self.console.print_line(f"{self.service.name} does not stop; killing it")
        self.kill_group()
        await self.wait()

    def kill_group(self) -> None:
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            return

    async def _wait_for_end(self, force: asyncio.Event) -> None:
        end = time.monotonic() + self.service.stop_timeout
        while self.is_running and not force.is_set() and time.monotonic() < end:
            await asyncio.sleep(POLL_INTERVAL)

    async def _relay(self, pipe) -> None:
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
        pending = b""
        while chunk := await reader.read(MAX_LINE_BYTES):
            *lines, pending = (pending + chunk).split(b"\n")
            if len(pending) > MAX_LINE_BYTES:
                lines, pending = [*lines, pending], b""
            for line in lines:
                self._handle_line(line)
        if pending:
            self._handle_line(pending)
        transport.close()

    def _handle_line(self, raw: bytes) -> None:
        line = raw.decode(errors="replace").rstrip()
        self.lines.append(line)
        noise = self.service.noise
        if not (self.quiet or noise and noise.search(line)):
            self.console.print_line(line, self.service.name)
