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

from launcher import banner, checks, embedded, engine, private_files, processes, runstate
from launcher.child import Child
from launcher.console import Console
from launcher.embedded import Embedded
from launcher.private_files import ROOT
from launcher.problems import CannotStart
from launcher.service import Service, tied
from launcher.supervisor import Stopped, Supervisor

ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}
BACKLOG = 2048
QUICK_SECONDS = 4  # within which the installer finds that the engine is there
WEB_STOP_SECONDS = 25  # a little more than uvicorn gives to streams


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    data = private_files.data_folder()
    private_files.prepare(data)
    try:
        with runstate.only_one(data), listen(options.host, options.port) as listener:
            return Launch(data, listener, options).run()
    except OSError as error:
        raise CannotStart(private_files.explain(error, data)) from error


def listen(host: str, port: int) -> socket.socket:
    """Bound before anything is started; web processes that come and go share it, and no request meets a closed door."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise CannotStart(_why_not(error, host, port)) from error


class Launch:
    """One run of `up`, from the first process to the last."""

    def __init__(self, data: Path, listener: socket.socket, options: argparse.Namespace):
        self.data, self.listener, self.web_processes = data, listener, options.web
        self.port = listener.getsockname()[1]
        self.host = options.host
        self.base_url = os.environ.get("SERAI_BASE_URL") or f"http://{_url_host(self.host)}:{self.port}"
        self.session = str(uuid.uuid4())
        self.console = Console()
        self.janitor_end, self.supervisor_end = os.pipe()

    def run(self) -> int:
        self._end_leftovers()
        servers = embedded.prepare(self.data)
        runstate.save(self.data, self._state(servers))
        code = asyncio.run(self._run(servers))
        runstate.forget(self.data)
        return code

    async def _run(self, servers: Sequence[Embedded]) -> int:
        self.supervisor = Supervisor(self.console, self._environment(servers))
        self.supervisor.take_signals()
        code = 0
        try:
            await self._bring_up(servers)
            await self._tell(time.time() - psutil.Process().create_time())
            await self.supervisor.stopping.wait()
        except Stopped:
            pass
        except CannotStart as problem:
            self.console.say(f"error: {problem}")
            code = 1
        finally:
            await self._shut_down()
        return code

    async def _bring_up(self, servers: Sequence[Embedded]) -> None:
        await self.supervisor.start(self._janitor(), *(server.service for server in servers))
        await self.supervisor.complete(self._django("migrate", "migrate", "--verbosity", "0"))
        others = (self._django(name, name) for name in ("worker", "scheduler"))
        await asyncio.gather(self.supervisor.start(*self._web(), *others), self._first_run())

    async def _first_run(self) -> None:
        """Beside the start of the others, which see the first rows as they see any new ones."""
        service = self._django("first-run", "first_run", "--base-url", self.base_url)
        self.record = _record_in(await self.supervisor.complete(service, quiet=True))

    async def _tell(self, seconds: float) -> None:
        """The banner, and a second one if the engine is there only later."""
        installer = None
        if not engine.is_left_out():
            installer = await self.supervisor.start_once(self._django("engine", *engine.INSTALL))
            await self._until_ended(installer, seconds=QUICK_SECONDS)
        self.console.show(banner.ready(self.record, seconds, engine.note(installer)))
        if installer and not installer.has_ended:
            await self._until_ended(installer)
            failed = installer.process.returncode
            self.console.show(f"  {engine.how_to_mend(installer)}" if failed else banner.engine_ready(self.record))

    async def _until_ended(self, child: Child, seconds: float = math.inf) -> None:
        end = time.monotonic() + seconds
        while child.is_running:
            if time.monotonic() > end:
                return
            await self.supervisor.pause(0.1)
        await child.wait()

    async def _shut_down(self) -> None:
        """Web, worker and scheduler; then what they started; then the servers that all of them needed."""
        kept = await self.supervisor.shut_down(keep=1)
        grace = 0.5 if self.supervisor.forced.is_set() else processes.GRACE_SECONDS
        await asyncio.to_thread(processes.end_session, self.session, grace=grace, spared=kept)
        await self.supervisor.shut_down()
        self.console.say("stopped")

    def _end_leftovers(self) -> None:
        session = runstate.load(self.data).get("session")
        ended = processes.end_session(session) if session else []
        if ended:
            self.console.say(f"ended what an earlier start had left behind: {', '.join(ended)}")

    def _environment(self, servers: Sequence[Embedded]) -> dict[str, str]:
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
                processes.SESSION: self.session,
            }
        )

    def _state(self, servers: Sequence[Embedded]) -> dict:
        return {
            "pid": os.getpid(),
            "start": processes.start_time(os.getpid()),
            "session": self.session,
            "base_url": self.base_url,
            "servers": {server.variable: server.url for server in servers},
        }

    def _janitor(self) -> Service:
        command = [sys.executable, "-m", "launcher.reaper"]
        return Service("janitor", command, options={"stdin": self.janitor_end, "cwd": ROOT / "platform"})

    def _web(self) -> list[Service]:
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
                stop_seconds=WEB_STOP_SECONDS,
            )
            for name in names
        ]

    def _django(self, name: str, *words: str, **more) -> Service:
        command = [*tied(signal.SIGTERM), sys.executable, str(ROOT / "manage.py"), *words]
        return Service(name, command, **more)


def _record_in(lines: Sequence[str]) -> dict:
    """`manage.py first_run` says what it made, or found, as one line of JSON."""
    for line in reversed(lines):
        if line.startswith("{"):
            return json.loads(line)
    raise CannotStart("first-run did not say what it made. Start again; if it stays so, this is a bug.")


def _why_not(error: OSError, host: str, port: int) -> str:
    another = "To use another one: SERAI_PORT={} python3 manage.py up"
    if error.errno == errno.EADDRINUSE:
        return f"Port {port} on {host} is in use. {another.format(port + 1)}"
    if error.errno == errno.EACCES:
        return f"Port {port} is for root only. {another.format(8000)}"
    return f"Cannot listen on {host} ({error.strerror}). Set SERAI_HOST to an address of this machine."


def _url_host(host: str) -> str:
    host = ANY_ADDRESS.get(host, host)
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def _count(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError("at least 1 is needed")
    return number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="manage.py up", description="Start everything, in the foreground.")
    parser.add_argument("--host", default=os.environ.get("SERAI_HOST", "127.0.0.1"))
    parser.add_argument("--port", type=int, default=os.environ.get("SERAI_PORT", "8000"), help="0: any free one")
    parser.add_argument("--web", type=_count, default=1, metavar="N", help="number of web processes")
    return parser
