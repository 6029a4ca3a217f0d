"""Temporary Postgres and Valkey, and a reaper that ends leftover processes once the caller has ended."""

import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

from launcher import embedded, processes
from launcher.data_folder import ROOT
from launcher.service import Service
from launcher.start_errors import CannotStart

POLL_INTERVAL = 0.05


class TemporaryServers:
    """Servers with their files in `data`. `stop` also ends all other processes of the session.

    If not `durable`, they are faster, but lose the last writes when they are killed.
    """

    def __init__(self, data: Path, *, durable: bool = False):
        self._data, self._durable = data, durable
        self._session = {processes.SESSION_VARIABLE: str(uuid.uuid4())}
        self._servers: list[tuple[Service, subprocess.Popen[bytes]]] = []
        self._reaper: subprocess.Popen[bytes] | None = None

    def start(self) -> dict[str, str]:
        """Returns the environment variables that clients of the servers need. Raises CannotStart."""
        self._reaper = self._start_reaper()
        servers = embedded.prepare(self._data, durable=self._durable)
        self._servers = [(server.service, self._start(server.service)) for server in servers]
        for service, process in self._servers:
            self._wait_for(service, process)
        return self._session | {server.variable: server.url for server in servers}

    def kill(self, name: str, number: signal.Signals) -> None:
        """Kill one server and start it again. The calling thread must stay alive: servers end with their thread."""
        index = next(index for index, (service, _process) in enumerate(self._servers) if service.name == name)
        service, process = self._servers[index]
        process.send_signal(number)
        process.wait()
        self._servers[index] = service, self._start(service)
        self._wait_for(*self._servers[index])

    def stop(self) -> None:
        for service, process in reversed(self._servers):
            process.send_signal(service.stop_signal)
            process.wait(timeout=15)
        if self._reaper:
            self._reaper.communicate(timeout=30)

    def _start_reaper(self) -> subprocess.Popen:
        command = [sys.executable, "-m", "launcher.session_reaper"]
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            cwd=ROOT / "platform",
            env=os.environ | self._session,
            start_new_session=True,
        )

    def _start(self, service: Service) -> subprocess.Popen:
        with self._log_path(service).open("ab") as log:
            return subprocess.Popen(
                service.command,
                stdout=log,
                stderr=log,
                env=os.environ | self._session,
                start_new_session=True,
                **service.options,
            )

    def _wait_for(self, service: Service, process: subprocess.Popen) -> None:
        while not service.ready():
            if process.poll() is not None:
                raise CannotStart(f"{service.name} ended: {self._log_path(service).read_text()}")
            time.sleep(POLL_INTERVAL)

    def _log_path(self, service: Service) -> Path:
        return self._data / f"{service.name}.log"
