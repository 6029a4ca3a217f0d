"""Creates the virtual environment that everything else runs in. Standard library only: nothing is installed yet."""

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from launcher.data_folder import MEGABYTE, ROOT
from launcher.start_errors import CannotStart

VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "serai-locks.json"
RUNTIME_LOCK, TEST_LOCK = "requirements.txt", "requirements-dev.txt"
PROGRESS_DELAY = 2  # seconds until a running step is reported
NEEDED_SPACE = 700 * MEGABYTE

DISK_FULL = f"The disk of {ROOT} is full. Free some space and start again."
NO_INDEX = "The first start needs the package index, which cannot be reached. Check the network or pip's settings."
CAUSES = (
    (DISK_FULL, r"No space left|os error 28\b|Errno 28\b|Disk quota exceeded"),
    (
        "A downloaded package differs from its lock. If it stays so, do not trust the package index.",
        r"Hash mismatch|DO NOT MATCH THE HASHES",
    ),
    (
        NO_INDEX,
        r"dns error|[Cc]onnection refused|[Nn]etwork is unreachable|name resolution|NewConnectionError|"
        r"[Cc]onnection timed out|Failed to fetch|Could not find a version|No matching distribution|"
        r"not found in the package registry|not found in the provided package locations|[Nn]etwork.*disabled",
    ),
)


class StepFailed(Exception):
    """A command of the set-up failed; the message is its output."""


def ensure_environment(arguments: Sequence[str]) -> None:
    """Return only in an environment with the packages for `arguments`; if needed, restart this process in it.

    SERAI_NO_VENV=1: the running interpreter has all packages already (a container image).
    """
    if os.environ.get("SERAI_NO_VENV") == "1":
        return
    locks = _locks_for(arguments)
    if _is_up_to_date(locks) and _runs_in_venv():
        return
    try:
        if not _is_up_to_date(locks):
            with _install_lock():
                _install_missing(locks)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise CannotStart(DISK_FULL if full else f"{error.filename or VENV}: {error.strerror}.") from error
    os.execv(PYTHON, [str(PYTHON), *arguments])


def _locks_for(arguments: Sequence[str]) -> list[str]:
    return [RUNTIME_LOCK, TEST_LOCK] if list(arguments[1:2]) == ["test"] else [RUNTIME_LOCK]


def _runs_in_venv() -> bool:
    return Path(sys.prefix).resolve() == VENV.resolve()


def _is_up_to_date(locks: Sequence[str]) -> bool:
    """The stamp is written last, so an interrupted installation does not count as complete."""
    installed = _read_stamp()
    return PYTHON.exists() and all(installed.get(lock) == _digest(lock) for lock in locks)


def _read_stamp() -> dict[str, str]:
    try:
        return json.loads(STAMP.read_text())
    except (OSError, ValueError):
        return {}


def _digest(lock: str) -> str:
    return hashlib.sha256((ROOT / lock).read_bytes()).hexdigest()


@contextmanager
def _install_lock() -> Iterator[None]:
    with (ROOT / ".venv.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _report("Another start is installing the packages; waiting for it …")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _install_missing(locks: Sequence[str]) -> None:
    if not _python_works():
        _make_venv()
    for lock in locks:
        if _read_stamp().get(lock) != _digest(lock):
            _install(lock)
            STAMP.write_text(json.dumps(_read_stamp() | {lock: _digest(lock)}))


def _python_works() -> bool:
    """A virtual environment breaks when the Python that it was made from is removed."""
    try:
        return subprocess.run([str(PYTHON), "-c", "import sys"], capture_output=True).returncode == 0
    except OSError:
        return False


def _make_venv() -> None:
    free = shutil.disk_usage(ROOT).free
    if free < NEEDED_SPACE:
        raise CannotStart(
            f"Only {free // MEGABYTE} MB are free on the disk of {ROOT}; the packages need "
            f"{NEEDED_SPACE // MEGABYTE} MB. Free some space and start again."
        )
    uv = shutil.which("uv")
    command = [uv, "venv", "--clear", "--python", sys.executable] if uv else [sys.executable, "-m", "venv", "--clear"]
    try:
        _run(f"Making the environment {VENV}", [*command, str(VENV)])
    except StepFailed as failure:
        raise CannotStart(_explain_venv(str(failure))) from failure


def _explain_venv(output: str) -> str:
    if re.search(r"ensurepip|No module named venv", output):
        return "Python's venv module is missing: install it (Debian: apt-get install python3-venv) or put uv on PATH."
    return _explain(output, f"The environment {VENV} could not be made")


def _install(lock: str) -> None:
    count = len(re.findall(r"^\S+==", (ROOT / lock).read_text(), re.MULTILINE))
    title = f"Installing {count} packages of {lock} (once; needs the network)"
    failures = ""
    for install in (_install_with_uv, _install_with_pip):
        try:
            return install(title, ROOT / lock)
        except StepFailed as failure:
            failures = f"{failure}\n{failures}"
    raise CannotStart(_explain(failures, f"The packages of {lock} could not be installed"))


def _install_with_uv(title: str, lock: Path) -> None:
    _run(title, [_find_or_install_uv(), "pip", "install", "--quiet", "--python", str(PYTHON), *_lock_arguments(lock)])


def _install_with_pip(title: str, lock: Path) -> None:
    """Slower than uv, but pip reads the mirrors in its own configuration files, and uv does not."""
    _run("Looking for pip", [str(PYTHON), "-m", "ensurepip"])
    _run(f"{title}, with pip (about a minute)", [*_pip_command(), *_lock_arguments(lock)])


def _find_or_install_uv() -> str:
    """uv from PATH; else installed into the environment from our own lock, so that its hash is checked."""
    uv = shutil.which("uv") or str(VENV / "bin" / "uv")
    if not Path(uv).exists():
        block = re.search(r"^uv==.*(?:\n .*)*", (ROOT / RUNTIME_LOCK).read_text(), re.MULTILINE)
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
            file.write(block.group() if block else "uv")
            file.flush()
            _run("Installing uv, which installs the rest", [*_pip_command(), *_lock_arguments(Path(file.name))])
    return uv


def _pip_command() -> list[str]:
    return [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]


def _lock_arguments(path: Path) -> list[str]:
    return ["--require-hashes", "-r", str(path)]


def _run(title: str, command: list[str]) -> None:
    """Run without output. A command that takes longer is reported after 2 s, then every 10 s."""
    environment = {**os.environ, "UV_PYTHON_DOWNLOADS": "never", "NO_COLOR": "1"}
    started = time.monotonic()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, env=environment)
        report_in = PROGRESS_DELAY
        while True:
            try:
                code = process.wait(timeout=report_in)
                break
            except subprocess.TimeoutExpired:
                _report(f"{title} … {time.monotonic() - started:.0f} s")
                report_in = 10
        if code:
            output.seek(0)
            raise StepFailed(output.read())


def _explain(output: str, what_failed: str) -> str:
    for advice, pattern in CAUSES:
        if re.search(pattern, output):
            return advice
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return f"{what_failed}: {lines[-1] if lines else 'no reason given'}"


def _report(line: str) -> None:
    print(f"serai: {line}", flush=True)
