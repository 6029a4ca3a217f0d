"""Makes the environment that everything else runs in. Standard library only: nothing is installed yet."""

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

from launcher.problems import CannotStart

ROOT = Path(__file__).resolve().parents[2]
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "serai-locks.json"
RUNTIME_LOCK, TEST_LOCK = "requirements.txt", "requirements-dev.txt"
PATIENCE = 2  # seconds after which a step that still runs says so
MEGABYTE = 1024**2
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
    """A command of the set-up ended with an error; the message is what it wrote."""


def enter(arguments: Sequence[str]) -> None:
    """Return inside an environment that holds what `arguments` need, by starting this process again there.

    SERAI_NO_VENV=1 says that the running interpreter has all packages already (a container image).
    """
    if os.environ.get("SERAI_NO_VENV") == "1":
        return
    locks = _locks_for(arguments)
    if _is_current(locks) and _is_inside():
        return
    try:
        if not _is_current(locks):
            with _only_one_at_a_time():
                _bring_up_to_date(locks)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise CannotStart(DISK_FULL if full else f"{error.filename or VENV}: {error.strerror}.") from error
    os.execv(PYTHON, [str(PYTHON), *arguments])


def _locks_for(arguments: Sequence[str]) -> list[str]:
    return [RUNTIME_LOCK, TEST_LOCK] if list(arguments[1:2]) == ["test"] else [RUNTIME_LOCK]


def _is_inside() -> bool:
    return Path(sys.prefix).resolve() == VENV.resolve()


def _is_current(locks: Sequence[str]) -> bool:
    """The stamp is written last, so an interrupted installation is not taken for a whole one."""
    installed = _installed()
    return PYTHON.exists() and all(installed.get(lock) == _digest(lock) for lock in locks)


def _installed() -> dict[str, str]:
    try:
        return json.loads(STAMP.read_text())
    except (OSError, ValueError):
        return {}


def _digest(lock: str) -> str:
    return hashlib.sha256((ROOT / lock).read_bytes()).hexdigest()


@contextmanager
def _only_one_at_a_time() -> Iterator[None]:
    with (ROOT / ".venv.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("Another start is installing the packages; waiting for it …")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _bring_up_to_date(locks: Sequence[str]) -> None:
    if not _python_works():
        _make_venv()
    for lock in locks:
        if _installed().get(lock) != _digest(lock):
            _install(lock)
            STAMP.write_text(json.dumps(_installed() | {lock: _digest(lock)}))


def _python_works() -> bool:
    """A virtual environment breaks when the Python that it was made from goes away."""
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
    _run(title, [_uv(), "pip", "install", "--quiet", "--python", str(PYTHON), *_locked(lock)])


def _install_with_pip(title: str, lock: Path) -> None:
    """Slower, but pip knows the mirrors that are named in its own files, and uv does not."""
    _run("Looking for pip", [str(PYTHON), "-m", "ensurepip"])
    _run(f"{title}, with pip (about a minute)", [*_pip(), *_locked(lock)])


def _uv() -> str:
    """uv from PATH, else out of our own lock into the environment, so that it is checked by its hash too."""
    uv = shutil.which("uv") or str(VENV / "bin" / "uv")
    if not Path(uv).exists():
        block = re.search(r"^uv==.*(?:\n .*)*", (ROOT / RUNTIME_LOCK).read_text(), re.MULTILINE)
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
            file.write(block.group() if block else "uv")
            file.flush()
            _run("Installing uv, which installs the rest", [*_pip(), *_locked(Path(file.name))])
    return uv


def _pip() -> list[str]:
    return [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]


def _locked(path: Path) -> list[str]:
    return ["--require-hashes", "-r", str(path)]


def _run(title: str, command: list[str]) -> None:
    """Run quietly. Say what is going on once it takes longer than `PATIENCE`, then every 10 s."""
    environment = {**os.environ, "UV_PYTHON_DOWNLOADS": "never", "NO_COLOR": "1"}
    started = time.monotonic()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, env=environment)
        patience = PATIENCE
        while True:
            try:
                code = process.wait(timeout=patience)
                break
            except subprocess.TimeoutExpired:
                _say(f"{title} … {time.monotonic() - started:.0f} s")
                patience = 10
        if code:
            output.seek(0)
            raise StepFailed(output.read())


def _explain(output: str, what_failed: str) -> str:
    for advice, pattern in CAUSES:
        if re.search(pattern, output):
            return advice
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return f"{what_failed}: {lines[-1] if lines else 'no reason given'}"


def _say(line: str) -> None:
    print(f"serai: {line}", flush=True)
