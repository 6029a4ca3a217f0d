"""`manage.py up`: everything on one machine, in the foreground."""

import argparse
import asyncio
import errno
import json
import math
import os
import signal
import socket
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

import psutil

from launcher import banner, checks, data_folder, embedded, engine, processes, run_state
from launcher.child import Child
from launcher.console import Console
from launcher.data_folder import ROOT
from launcher.embedded import EmbeddedServer
from launcher.service import Service, parent_death_prefix
from launcher.start_errors import CannotStart
from launcher.supervisor import StoppedByUser, Supervisor

ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}
BACKLOG = 2048
INSTALL_CHECK_TIMEOUT = 4  # the installer ends within this time if the engine is installed already
WEB_STOP_TIMEOUT = 25  # a little more than uvicorn's timeout for open replies


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    data = data_folder.data_folder()
    data_folder.prepare(data)
    try:
        with run_state.hold_lock(data), listen(options.host, options.port) as listener:
            return Launch(data, listener, options).run()
    except OSError as error:
        raise CannotStart(data_folder.explain(error, data)) from error


def listen(host: str, port: int) -> socket.socket:
    """Bound before anything is started, and shared by restarted web processes, so that no connection is refused."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise CannotStart(_explain_bind_error(error, host, port)) from error


class Launch:
    """One run of `up`, from the first process to the last."""

    def __init__(self, data: Path, listener: socket.socket, options: argparse.Namespace):
        self.data, self.listener, self.web_processes = data, listener, options.web
        self.port = listener.getsockname()[1]
        self.host = options.host
        self.base_url = os.environ.get("SERAI_BASE_URL") or f"http://{_url_host(self.host)}:{self.port}"
        self.session = str(uuid.uuid4())
        self.console = Console()
        self.reaper_end, self.supervisor_end = os.pipe()

    def run(self) -> int:
        self._end_leftovers()
        servers = embedded.prepare(self.data)
        run_state.save(self.data, self._run_state(servers))
        code = asyncio.run(self._run(servers))
        run_state.delete(self.data)
        return code

    async def _run(self, servers: Sequence[EmbeddedServer]) -> int:
        self.supervisor = Supervisor(self.console, self._environment(servers))
        self.supervisor.install_signal_handlers()
        code = 0
        try:
            await self._start_all(servers)
            await self._print_banner(time.time() - psutil.Process().create_time())
            await self.supervisor.stopping.wait()
        except StoppedByUser:
            pass
        except CannotStart as problem:
            self.console.print_line(f"error: {problem}")
            code = 1
        finally:
            await self._shut_down()
        return code

    async def _start_all(self, servers: Sequence[EmbeddedServer]) -> None:
        await self.supervisor.start(self._reaper_service(), *(server.service for server in servers))
        await self.supervisor.run_to_end(self._django("migrate", "migrate", "--verbosity", "0"))
        others = (self._django(name, name) for name in ("worker", "scheduler"))
        await asyncio.gather(self.supervisor.start(*self._web_services(), *others), self._first_run())

    async def _first_run(self) -> None:
        """Runs while the other services start; they pick up the first rows like any later ones."""
        shown = ["--with-secrets"] if self.console.is_terminal else []
        service = self._django("first-run", "first_run", "--base-url", self.base_url, *shown)
        self.record = _parse_record(await self.supervisor.run_to_end(service, quiet=True))

    async def _print_banner(self, seconds: float) -> None:
        """Print the banner, and a second one if the engine is installed only later."""
        installer = None
        if not engine.is_skipped():
            installer = await self.supervisor.start_once(self._django("engine", *engine.INSTALL))
            await self._wait_until_ended(installer, seconds=INSTALL_CHECK_TIMEOUT)
        self.console.show(banner.ready_text(self.record, seconds, engine.status_message(installer)))
        if installer and not installer.has_ended:
            await self._wait_until_ended(installer)
            code = installer.process.returncode
            self.console.show(
                f"  {engine.failure_message(installer)}" if code else banner.engine_ready_text(self.record)
            )

    async def _wait_until_ended(self, child: Child, seconds: float = math.inf) -> None:
        end = time.monotonic() + seconds
        while child.is_running:
            if time.monotonic() > end:
                return
            await self.supervisor.pause(0.1)
        await child.wait()

    async def _shut_down(self) -> None:
        """Stop web, worker and scheduler, then the processes that they started, then the servers."""
        running = await self.supervisor.shut_down(keep=1)
        grace = 0.5 if self.supervisor.forced.is_set() else processes.GRACE_TIMEOUT
        await asyncio.to_thread(processes.end_session, self.session, grace=grace, spared=running)
        await self.supervisor.shut_down()
        self.console.print_line("stopped")

    def _end_leftovers(self) -> None:
        session = run_state.load(self.data).get("session")
        ended = processes.end_session(session) if session else []
        if ended:
            self.console.print_line(f"ended what an earlier start had left behind: {', '.join(ended)}")

    def _environment(self, servers: Sequence[EmbeddedServer]) -> dict[str, str]:
        return (
            os.environ
            | {server.variable: server.url for server in servers}
            | {
                "PYTHONUNBUFFERED": "1",
                "SERAI_NO_VENV": "1",
                "SERAI_DATA": str(self.data),
                "SERAI_HOST": self.host,
                "SERAI_PORT": str(self.port),
                "SERAI_BASE_URL": self.base_url,
                "SERAI_SUPERVISOR_PID": str(os.getpid()),
                "SERAI_SUPERVISOR_START": str(processes.start_time(os.getpid())),
                processes.SESSION_VARIABLE: self.session,
            }
        )

    def _run_state(self, servers: Sequence[EmbeddedServer]) -> dict:
        return {
            "pid": os.getpid(),
            "start": processes.start_time(os.getpid()),
            "session": self.session,
            "base_url": self.base_url,
            "servers": {server.variable: server.url for server in servers},
        }

    def _reaper_service(self) -> Service:
        command = [sys.executable, "-m", "launcher.session_reaper"]
        return Service("janitor", command, options={"stdin": self.reaper_end, "cwd": ROOT / "platform"})

    def _web_services(self) -> list[Service]:
        names = ["web"] if self.web_processes == 1 else [f"web-{n}" for n in range(1, self.web_processes + 1)]
        fd = self.listener.fileno()
        host = ANY_ADDRESS.get(self.host, self.host).strip("[]")
        return [
            self._django(
                name,
                "web",
                "--fd",
                str(fd),
                options={"pass_fds": [fd]},
                ready=checks.http_ok(host, self.port, "/health"),
                stop_timeout=WEB_STOP_TIMEOUT,
            )
            for name in names
        ]

    def _django(self, name: str, *arguments: str, **fields) -> Service:
        command = [*parent_death_prefix(signal.SIGTERM), sys.executable, str(ROOT / "manage.py"), *arguments]
        return Service(name, command, **fields)


def _parse_record(lines: Sequence[str]) -> dict:
    """`manage.py first_run` prints its record as one line of JSON."""
    for line in reversed(lines):
        if line.startswith("{"):
            return json.loads(line)
    raise CannotStart("first-run did not say what it made. Start again; if it stays so, this is a bug.")


def _explain_bind_error(error: OSError, host: str, port: int) -> str:
    advice = "To use another one: SERAI_PORT={} python3 manage.py up"
    if error.errno == errno.EADDRINUSE:
        return f"Port {port} on {host} is in use. {advice.format(port + 1)}"
    if error.errno == errno.EACCES:
        return f"Port {port} is for root only. {advice.format(8000)}"
    return f"Cannot listen on {host} ({error.strerror}). Set SERAI_HOST to an address of this machine."


def _url_host(host: str) -> str:
    host = ANY_ADDRESS.get(host, host)
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def _positive_int(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError("at least 1 is needed")
    return number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="manage.py up", description="Start everything, in the foreground.")
    parser.add_argument("--host", default=os.environ.get("SERAI_HOST", "127.0.0.1"))
    parser.add_argument("--port", type=int, default=os.environ.get("SERAI_PORT", "8000"), help="0: any free one")
    parser.add_argument("--web", type=_positive_int, default=1, metavar="N", help="number of web processes")
    return parser
