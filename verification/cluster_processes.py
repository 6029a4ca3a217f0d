"""The cluster under test: two agents on one host with their own data folders, a scheduler, and foreign engines."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import psutil

from accounts.models import Installation
from core import broker
from inference.models import Device, Node
from launcher.data_folder import ROOT
from launcher.processes import SESSION_VARIABLE, find_session, start_time
from launcher.temporary_servers import TemporaryServers
from node_agent import processes
from node_agent.processes import MarkedProcess
from node_agent.shim.proc import send_signal
from verification.engine_plugin import ENGINE

AGENT_NAMES = ("one", "two")
READY_TIMEOUT = 180


class ClusterProcesses:
    """The processes of one run. A killed service is started again at once, as a supervisor does."""

    def __init__(self, folder: Path, servers: TemporaryServers):
        self._servers = servers
        self._restarter = ThreadPoolExecutor(1)  # the thread of the restarted servers, which end with it
        self.cluster_id = str(Installation.objects.get().cluster_id)
        self.folders = [folder / name for name in AGENT_NAMES]
        self._log = (folder / "verify.log").open("ab")
        self._commands = [("worker", data) for data in self.folders] + [("scheduler", folder)]
        self._children: list[subprocess.Popen] = []
        self._strangers: list[subprocess.Popen] = []
        self.session = os.environ[SESSION_VARIABLE]

    def begin(self) -> None:
        for data in self.folders:
            (data / "private").mkdir(parents=True, mode=0o700)
        self._children = [self._start(*command) for command in self._commands]
        self._strangers = self._start_strangers()
        deadline = time.monotonic() + READY_TIMEOUT
        while Device.objects.online().count() < len(self.folders):
            if time.monotonic() > deadline:
                raise TimeoutError(f"The agents did not come up within {READY_TIMEOUT} s.")
            time.sleep(0.2)

    def end(self) -> None:
        for member in [member for child in (*self._children, *self._strangers) for member in _tree(child.pid)]:
            member.kill()
        for child in (*self._children, *self._strangers):
            child.wait()
        for process in self.marked():
            send_signal(process.pid, process.start, signal.SIGKILL)
        self._log.close()

    # --- faults

    def kill_worker(self, number: int) -> None:
        self._restart(number % len(self.folders))

    def kill_scheduler(self) -> None:
        self._restart(len(self.folders))

    def lose_valkey(self) -> None:
        with suppress(*broker.UNAVAILABLE):  # killed already
            broker.client().flushall()
        self._restarter.submit(self._servers.kill, "valkey", signal.SIGKILL).result()

    def end_postgres(self) -> None:
        """Immediate shutdown, which drops the connections of its clients."""
        self._restarter.submit(self._servers.kill, "postgres", signal.SIGQUIT).result()

    def kill_one_of(self, chosen: list[MarkedProcess], number: int) -> bool:
        """Kill the process of this number. Returns False if there is none."""
        if not chosen:
            return False
        victim = sorted(chosen, key=lambda process: (process.start, process.pid))[number % len(chosen)]
        return send_signal(victim.pid, victim.start, signal.SIGKILL)

    # --- processes

    def marked(self, data: Path | None = None) -> list[MarkedProcess]:
        """Shims, engines and their children, found by the marks in their environment."""
        folders = [data] if data else self.folders
        return [found for folder in folders for found in processes.find_marked(self.cluster_id, str(folder))]

    def shims(self) -> list[MarkedProcess]:
        return [process for process in self.marked() if _has_argument(process.pid, "shim")]

    def engines(self) -> list[MarkedProcess]:
        return [process for process in self.marked() if _has_argument(process.pid, "--uds")]

    def killed_strangers(self) -> list[int]:
        return [stranger.pid for stranger in self._strangers if stranger.poll() is not None]

    def unaccounted(self) -> list[int]:
        """Processes of this run that are no known service and have no marks of an instance."""
        known = {process.pid for process in self.marked()} | {process.pid for process in _tree(os.getpid())}
        found = [process for process in find_session(self.session) if process.pid not in known]
        return [process.pid for process in found if process.is_running()]

    def stale_agents(self, moment) -> list[str]:
        """Data folders of agents without a heartbeat since `moment`."""
        online = Node.objects.filter(heartbeat_at__gt=moment).values_list("data_folder", flat=True)
        return [str(folder) for folder in self.folders if str(folder) not in set(online)]

    # --- helpers

    def _start(self, command: str, data: Path) -> subprocess.Popen:
        environment = os.environ | {
            "SERAI_DATA": str(data), "SERAI_SUPERVISOR_PID": str(os.getpid()),
            "SERAI_SUPERVISOR_START": str(start_time(os.getpid())),
        }  # fmt: skip
        return subprocess.Popen(
            [sys.executable, str(ROOT / "manage.py"), command],
            env=environment, stdout=self._log, stderr=self._log, start_new_session=True,
        )  # fmt: skip

    def _restart(self, index: int) -> None:
        self._children[index].kill()
        self._children[index].wait()
        self._children[index] = self._start(*self._commands[index])

    def _start_strangers(self) -> list[subprocess.Popen]:
        """Foreign engines that look like ours: of another cluster, of another data folder, without marks.

        The session is for the clean-up; agents ignore it.
        """
        ours = {"SERAI_CLUSTER": self.cluster_id, "SERAI_DATA_FOLDER": str(self.folders[0]),
                "SERAI_INSTANCE": "inst_of_others", "SERAI_GENERATION": "1"}  # fmt: skip
        marks = [ours | {"SERAI_CLUSTER": "another"}, ours | {"SERAI_DATA_FOLDER": "/another"}, {}]
        return [self._start_stranger(number, env) for number, env in enumerate(marks)]

    def _start_stranger(self, number: int, marks: dict[str, str]) -> subprocess.Popen:
        socket = self.folders[0] / f"stranger-{number}.sock"
        command = [sys.executable, "-S", str(ENGINE), "--uds", str(socket)]
        environment = {"PATH": os.environ["PATH"], SESSION_VARIABLE: self.session, **marks}
        return subprocess.Popen(command, env=environment, stdout=self._log, stderr=self._log, start_new_session=True)


def _has_argument(pid: int, name: str) -> bool:
    with suppress(psutil.Error):
        return any(argument == name or argument.endswith(f"/{name}") for argument in psutil.Process(pid).cmdline())
    return False


def _tree(pid: int) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    return []
