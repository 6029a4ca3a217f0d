"""Start `up` in its own process, as a user does, and observe it from outside."""

import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from launcher import processes, run_state

ROOT = Path(__file__).resolve().parents[2]
ALONE = {"DATABASE_URL": None, "REDIS_URL": None, "SERAI_SKIP_ENGINE_INSTALL": "1"}  # with servers of its own


def toy_checkout(folder: Path) -> Path:
    """The manage.py of a checkout that has our launcher and toys for services."""
    shutil.copytree(ROOT / "platform", folder / "platform")
    return Path(shutil.copy(ROOT / "tests" / "support" / "toy_manage.py", folder / "manage.py"))


def small_disk(place: Path, size: str) -> list[str]:
    """Prefix of a command that mounts a small disk for it at `place`."""
    place.mkdir()
    private_mounts = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    if subprocess.run([*private_mounts, "true"], capture_output=True).returncode:
        pytest.skip("this machine allows no mounts of one's own")
    mount = f'mount -t tmpfs -o size={size} none "$1" && shift && exec "$@"'
    return [*private_mounts, "sh", "-c", mount, "sh", str(place)]


class Up:
    """A running `manage.py up` on a free port. A variable that is None is taken out of the environment.

    `prefix`: arguments in front of the command. `terminal`: its output is a terminal, not a pipe.
    """

    def __init__(
        self,
        manage: Path,
        data: Path,
        *arguments: str,
        prefix: Sequence[str] = (),
        terminal: bool = False,
        **environment: str | None,
    ):
        self.data = data
        self.text = ""
        self.output, its_end = pty.openpty() if terminal else os.pipe()
        changed = {**os.environ, "SERAI_DATA": str(data), "SERAI_NO_VENV": "1", **environment}
        self.process = subprocess.Popen(
            [*prefix, sys.executable, str(manage), "up", "--port", "0", *arguments],
            env={name: value for name, value in changed.items() if value is not None},
            stdout=its_end,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        os.close(its_end)
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        with os.fdopen(self.output, "rb", buffering=0) as output, suppress(OSError):  # a terminal ends with an error
            while part := output.read(65536):
                self.text += part.decode(errors="replace").replace("\r\n", "\n")

    def wait_for(self, pattern: str, seconds: float = 60) -> re.Match:
        """The first match in its output; fails at once if the process ends without one."""
        end = time.monotonic() + seconds
        while not (match := re.search(pattern, self.text)):
            ended = self.process.poll() is not None and not self.reader.is_alive()
            assert not ended and time.monotonic() < end, f"no {pattern!r} in:\n{self.text}"
            time.sleep(0.05)
        return match

    def wait_until_ready(self) -> str:
        """The base URL."""
        url = self.wait_for(r"Address +(\S+)").group(1)
        self.session = run_state.load(self.data)["session"]
        return url

    def left(self) -> list:
        """The processes of this `up` that still exist, without itself."""
        return processes.find_session(self.session)

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def end(self, seconds: float = 60) -> int:
        code = self.process.wait(timeout=seconds)
        self.reader.join(timeout=5)
        return code

    def close(self) -> None:
        """For fixtures: ends the process in any state."""
        if self.process.poll() is None:
            self.interrupt()
            try:
                self.process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
