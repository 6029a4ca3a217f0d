"""Installs engines, each into an environment of its own, shared by all clones of the platform.

An environment lies at CACHE_DIR/engines/<engine>-<hash of its lock>. It is created in its final place, because
virtual environments cannot be moved, under a file lock. A marker that is written last says that it is complete.
"""

import ctypes
import fcntl
import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from django.conf import settings

from engines import build, recipes
from engines.build import BuildFailed
from engines.commands import CommandRunner
from engines.packages import PackageError, Uv
from engines.recipes import GIGABYTE, BuildAlternatives, BuildSource, EnvironmentRecipe, SystemLibrary

ABSENT, INSTALLING, READY, FAILED = "absent", "installing", "ready", "failed"
TRIAL_TIMEOUT = 300
_DOWNLOAD_STARTS = re.compile(r"^Downloading (\S+) \(([\d.]+)([KMG])iB\)")
_DOWNLOAD_ENDS = re.compile(r"^Downloaded (\S+)")
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}
_CAUSES = (
    (
        r"No space left|os error 28\b|Errno 28\b|[Dd]isk quota",
        "The disk is full: free some space, or name a larger place in SERAI_CACHE.",
    ),
    (
        r"dns error|[Cc]onnection (refused|timed out|reset)|[Nn]etwork is unreachable|error sending request",
        "The package index cannot be reached: check the network or pip's settings.",
    ),
    (
        r"[Hh]ash mismatch",
        "A package differs from its hash in the lock. Try again; if it stays so, do not trust the package index.",
    ),
)


class InstallFailed(Exception):
    """The engine could not be installed; the message says why and what to do."""


@dataclass(frozen=True)
class InstallStatus:
    """The status of an engine's installation. `started_at` is ISO 8601 in UTC, `percent` is an estimate."""

    engine: str
    state: str
    progress: str = ""
    percent: int = 0
    started_at: str | None = None
    error: str | None = None


def environment_python(engine: str) -> Path:
    """The interpreter of the engine's environment, which may not exist yet."""
    return Environment(recipes.find(engine)).python


def engine_program(engine: str) -> Path:
    """The program that starts the engine; it may not exist yet."""
    return Environment(recipes.find(engine)).program


def is_ready(engine: str) -> bool:
    """Whether the engine's environment is complete. Cheap: checks two files."""
    return Environment(recipes.find(engine)).is_ready


def status(engine: str) -> InstallStatus:
    """The status of the installation, for a person who waits for it. Raises UnknownEngine."""
    environment = Environment(recipes.find(engine))
    if environment.is_ready:
        return InstallStatus(engine, READY, "installed", 100)
    recorded = InstallReporter(engine).read()
    if recorded.state == READY:  # of an earlier lock, or the cache was cleared since
        return InstallStatus(engine, ABSENT)
    if recorded.state == INSTALLING and not environment.is_installing:
        return replace(recorded, state=FAILED, error="The installation was interrupted.")
    return recorded


def install_engine(engine: str, report: Callable[[str], None] = lambda line: None) -> Path:
    """Create the engine's environment if it is missing, and return the program that starts the engine.

    `report` receives each step as a sentence. Of several callers, in any process, one works and the others wait.
    Raises InstallFailed, UnknownEngine.
    """
    environment = Environment(recipes.find(engine))
    if not environment.is_ready:
        journal = InstallReporter(engine, report)
        with journal.recording_failure(), environment.exclusive(journal) as lock:
            if not environment.is_ready:
                EngineInstallation(environment, journal, lock).run()
        journal.finish()
    return environment.program


class Environment:
    """The folder of a recipe, its files and its lock."""

    def __init__(self, recipe: EnvironmentRecipe):
        self.recipe = recipe
        self.folder = settings.CACHE_DIR / "engines" / recipes.environment_name(recipe)
        self.python = self.folder / "bin" / "python"
        self.program = self.folder / recipe.program
        self._marker = self.folder / "complete.json"
        self._lock = self.folder.with_name(f"{self.folder.name}.lock")

    @property
    def is_ready(self) -> bool:
        """The marker alone is not enough: the interpreter vanishes with the Python that created the environment."""
        return self._marker.exists() and self.program.exists()

    @property
    def is_installing(self) -> bool:
        with suppress(FileNotFoundError), self._lock.open() as file:
            return not _try_lock(file, fcntl.LOCK_SH)
        return False

    @contextmanager
    def exclusive(self, journal: "InstallReporter") -> Iterator[int]:
        """Wait for the lock and hold it. Yields its descriptor: children that inherit it hold the lock too."""
        self._lock.parent.mkdir(parents=True, exist_ok=True)
        with self._lock.open("w") as file:
            if not _try_lock(file, fcntl.LOCK_EX):
                journal.record_progress(0, "waiting for another process that is installing it")
                fcntl.flock(file, fcntl.LOCK_EX)
            yield file.fileno()

    def mark_complete(self) -> None:
        _write_atomically(self._marker, {"engine": self.recipe.engine, "installed_at": _now()})


class InstallReporter:
    """Reports an installation's progress: to its caller, and to other processes by a file in the data folder."""

    def __init__(self, engine: str, report: Callable[[str], None] = lambda line: None):
        self._path = settings.DATA_DIR / f"engine-install-{engine}.json"
        self._report = report
        self._status = InstallStatus(engine, INSTALLING, started_at=_now())

    def record_progress(self, percent: int, progress: str) -> None:
        percent = max(percent, self._status.percent)
        self._status = replace(self._status, percent=percent, progress=progress)
        self._report(f"{self._status.engine}: {progress} ({percent} %)")
        self._write()

    def finish(self) -> None:
        self._status = replace(self._status, state=READY)
        self.record_progress(100, "installed")

    @contextmanager
    def recording_failure(self) -> Iterator[None]:
        try:
            yield
        except (InstallFailed, PackageError, BuildFailed, OSError) as error:
            self._status = replace(self._status, state=FAILED, error=_explain(error))
            self._write()
            raise InstallFailed(self._status.error) from error

    def read(self) -> InstallStatus:
        """The status that the last installation of this engine recorded."""
        with suppress(OSError, ValueError, TypeError):
            return InstallStatus(**json.loads(self._path.read_text()))
        return InstallStatus(self._status.engine, ABSENT)

    def _write(self) -> None:
        with suppress(OSError):  # a full disk: the caller's own error says so
            _write_atomically(self._path, asdict(self._status))


class EngineInstallation:
    """The steps that create an environment."""

    def __init__(self, environment: Environment, journal: InstallReporter, lock: int):
        self._environment = environment
        self._recipe = environment.recipe
        self._journal = journal
        self._runner = CommandRunner(lock)
        self._uv = Uv(self._runner)
        self._sizes: dict[str, int] = {}
        self._downloaded = 0

    def run(self) -> None:
        self._journal.record_progress(0, "checking the machine")
        for library in self._recipe.libraries:
            _require_library(library)
        _require_space(self._environment.folder, self._recipe.disk)
        if self._recipe.source:
            build.require_compiler()
        self._journal.record_progress(2, "making the environment")
        self._uv.create_environment(self._environment.folder)
        self._install_startup_modules()
        if self._recipe.alternatives:
            self._install_preferred_build(self._recipe.alternatives)
        if self._recipe.source:
            self._build(self._recipe.source)
        else:
            self._uv.install_lock(self._environment.python, self._recipe.lock, self._report_line)
        self._journal.record_progress(90, "trying it once")
        self._try_program()
        self._environment.mark_complete()

    def _build(self, source: BuildSource) -> None:
        self._journal.record_progress(5, "installing what builds it")
        self._uv.install_lock(self._environment.python, self._recipe.lock, on_line=lambda line: None)
        build.SourceBuild(source, self._environment.folder, self._runner, self._journal.record_progress).run()

    def _install_startup_modules(self) -> None:
        """Every interpreter of the environment imports these modules at its start, by a .pth file."""
        packages = next(self._environment.folder.glob("lib/python*/site-packages"))
        for module in self._recipe.startup_modules:
            shutil.copy(module, packages)
            (packages / f"{module.stem}.pth").write_text(f"import {module.stem}\n")

    def _install_preferred_build(self, builds: BuildAlternatives) -> None:
        python = self._environment.python
        if self._uv.offers(python, builds.preferred):
            self._uv.install_build(python, builds.preferred, self._report_line)
        else:
            _require_space(self._environment.folder, self._recipe.disk + builds.fallback_disk)
            self._uv.install_lock(python, builds.fallback_lock, self._report_line)

    def _report_line(self, line: str) -> None:
        """uv prints each large download when it starts, with its size, and when it ends."""
        if starts := _DOWNLOAD_STARTS.match(line):
            self._sizes[starts[1]] = int(float(starts[2]) * _UNITS[starts[3]])
        elif ends := _DOWNLOAD_ENDS.match(line):
            self._downloaded += self._sizes.get(ends[1], 0)
            share = min(1.0, self._downloaded / self._recipe.download)
            self._journal.record_progress(5 + int(70 * share), f"downloaded {self._downloaded // 10**6} MB")
        elif line.startswith(("Prepared", "Installed")):
            self._journal.record_progress(5, line.lower())
        elif line.startswith("Bytecode"):
            self._journal.record_progress(85, line.lower())

    def _try_program(self) -> None:
        """Start the program once: a missing system library must not show at a tenant's first request."""
        program = str(self._environment.program)
        imports = ["-c", f"import {', '.join(self._recipe.modules)}"]
        command = [program, "--version"] if self._recipe.source else [program, *imports]
        try:
            trial = subprocess.run(
                command, cwd=self._environment.folder, capture_output=True, text=True, timeout=TRIAL_TIMEOUT
            )
        except subprocess.TimeoutExpired as late:
            raise InstallFailed(f"The engine did not answer within {TRIAL_TIMEOUT} s.") from late
        if trial.returncode:
            last_lines = "\n".join(trial.stderr.splitlines()[-3:])
            raise InstallFailed(f"The engine cannot be started: {last_lines}")


def _require_library(library: SystemLibrary) -> None:
    try:
        ctypes.CDLL(library.file)
    except OSError:
        raise InstallFailed(f"The library {library.file} is missing: {library.advice}.") from None


def _require_space(folder: Path, needed: int) -> None:
    existing = next(parent for parent in folder.parents if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise InstallFailed(
            f"The engine needs {needed / GIGABYTE:.1f} GB below {settings.CACHE_DIR}, but only "
            f"{free / GIGABYTE:.1f} GB are free: make room, or name a larger place in SERAI_CACHE."
        )


def _explain(error: Exception) -> str:
    text = str(error)
    for pattern, advice in _CAUSES:
        if re.search(pattern, text):
            return advice
    return text


def _try_lock(file: IO[str], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _write_atomically(path: Path, content: dict[str, object]) -> None:
    draft = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
    draft.write_text(json.dumps(content))
    draft.replace(path)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
