"""Postgres and Valkey that nobody will miss, and a janitor that ends what is left once its caller is gone."""

import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

from launcher import embedded, processes
from launcher.private_files import ROOT
from launcher.problems import CannotStart
from launcher.service import Service

PAUSE = 0.05


class Throwaway:
    """Servers whose files lie in `data`. `stop` also ends all that carries the session.

    Unless `durable` they are faster, and lose what was written last when they are killed.
    """

    def __init__(self, data: Path, *, durable: bool = False):
        self._data, self._durable = data, durable
        self._session = {processes.SESSION: str(uuid.uuid4())}
        self._servers: list[tuple[Service, subprocess.Popen]] = []
        self._janitor: subprocess.Popen | None = None

    def start(self) -> dict[str, str]:
        """The variables that whoever uses them needs. Raises CannotStart."""
        self._janitor = self._start_janitor()
        found = embedded.prepare(self._data, durable=self._durable)
        self._servers = [(server.service, self._start(server.service)) for server in found]
        for service, process in self._servers:
            self._wait_for(service, process)
        return self._session | {server.variable: server.url for server in found}

    def kill(self, name: str, number: signal.Signals) -> None:
        """End one at once and start it again, which the thread must outlive: servers end with the thread above them."""
        place = next(place for place, (service, _process) in enumerate(self._servers) if service.name == name)
        service, process = self._servers[place]
        process.send_signal(number)
        process.wait()
        self._servers[place] = service, self._start(service)
        self._wait_for(*self._servers[place])

    def stop(self) -> None:
        for service, process in reversed(self._servers):
            process.send_signal(service.stop_signal)
            process.wait(timeout=15)
        if self._janitor:
            self._janitor.communicate(timeout=30)

    def _start_janitor(self) -> subprocess.Popen:
        command = [sys.executable, "-m", "launcher.reaper"]
        options = {"cwd": ROOT / "platform", "env": os.environ | self._session, "start_new_session": True}
        return subprocess.Popen(command, stdin=subprocess.PIPE, **options)

    def _start(self, service: Service) -> subprocess.Popen:
        with self._log_of(service).open("ab") as log:
            output = {"stdout": log, "stderr": log, "env": os.environ | self._session}
            return subprocess.Popen(service.command, start_new_session=True, **output, **service.options)

    def _wait_for(self, service: Service, process: subprocess.Popen) -> None:
        while not service.ready():
            if process.poll() is not None:
                raise CannotStart(f"{service.name} ended: {self._log_of(service).read_text()}")
            time.sleep(PAUSE)

    def _log_of(self, service: Service) -> Path:
        return self._data / f"{service.name}.log"
