"""Installs Python packages into an environment with uv, from the sources of pip's configuration."""

import ast
import functools
import re
import shutil
import subprocess
import sys
from pathlib import Path

from engines.commands import MAX_ERROR_LINES, CommandFailed, CommandRunner, LineCallback

_PIP_SETTING = re.compile(r"^[\w:]+\.(find-links|index-url|extra-index-url)=(.*)$", re.MULTILINE)


class PackageError(Exception):
    """uv failed; the message is its error output."""


class Uv:
    """uv with pip's settings passed as options: by itself it reads none of them."""

    def __init__(self, runner: CommandRunner | None = None):
        self._program = find_uv()
        self._runner = runner or CommandRunner()

    def create_environment(self, folder: Path) -> None:
        """Create a fresh virtual environment for the running interpreter."""
        self._run("venv", "--clear", "--no-python-downloads", "--python", sys.executable, str(folder))

    def offers(self, python: Path, requirement: str) -> bool:
        """Whether pip's configured sources offer exactly this build."""
        options = ("--dry-run", "--no-deps", *_target(python), *_all_sources())
        try:
            self._run("pip", "install", *options, requirement)
        except PackageError:
            return False
        return True

    def install_build(self, python: Path, requirement: str, on_line: LineCallback) -> None:
        """Install one build whose bytes differ from source to source: checked by version, not by hash."""
        options = ("--no-deps", *_target(python), *_all_sources())
        self._run("pip", "install", *options, requirement, on_line=on_line)

    def install_lock(self, python: Path, lock: Path, on_line: LineCallback) -> None:
        """Install exactly what the lock names, each file checked by its hash, and compile it all."""
        options = ("--no-deps", "--require-hashes", "--compile-bytecode", *_target(python), *_main_sources())
        self._run("pip", "install", *options, "-r", str(lock), on_line=on_line)

    def _run(self, *arguments: str, on_line: LineCallback = lambda line: None) -> None:
        try:
            self._runner.run([self._program, *arguments, "--color", "never"], on_line)
        except CommandFailed as failure:
            raise PackageError(_error_lines(failure.output)) from failure


def find_uv() -> str:
    beside = Path(sys.executable).with_name("uv")
    found = str(beside) if beside.exists() else shutil.which("uv")
    if not found:
        raise PackageError(f"uv is missing, which installs engines: {sys.executable} -m pip install uv")
    return found


def _error_lines(output: list[str]) -> str:
    """uv's error line and the lines that follow, without the progress before."""
    start = next((number for number, line in enumerate(output) if line.startswith("error")), 0)
    return "\n".join(output[start : start + MAX_ERROR_LINES])


def _target(python: Path) -> tuple[str, ...]:
    return ("--python", str(python))


def _main_sources() -> list[str]:
    """A mirror of PyPI and folders of wheels; extra indexes are used only for builds that PyPI lacks."""
    options = [argument for place in _find_links() for argument in ("--find-links", place)]
    for url in _pip_settings()["index-url"][-1:]:
        options += ["--default-index", url]
    return options


def source_variables() -> dict[str, str]:
    """The same sources as environment variables that uv reads."""
    found = {"UV_DEFAULT_INDEX": "".join(_pip_settings()["index-url"][-1:]), "UV_FIND_LINKS": ",".join(_find_links())}
    return {name: value for name, value in found.items() if value}


def _find_links() -> list[str]:
    """Without missing folders, on which uv fails, unlike pip."""
    return [place for place in _pip_settings()["find-links"] if "://" in place or Path(place).exists()]


def _all_sources() -> list[str]:
    extra = [argument for url in _pip_settings()["extra-index-url"] for argument in ("--index", url)]
    # pip takes the best version of all indexes; without this option uv takes the first index that has any version.
    return [*_main_sources(), *extra, "--index-strategy", "unsafe-best-match"]


@functools.cache
def _pip_settings() -> dict[str, list[str]]:
    """pip's sources, from its files and variables. Later values come last: an index overrides, other sources add up."""
    found: dict[str, list[str]] = {"find-links": [], "index-url": [], "extra-index-url": []}
    for name, value in _PIP_SETTING.findall(_pip_config_list()):
        found[name] += [place for place in ast.literal_eval(value).split() if place not in found[name]]
    return found


def _pip_config_list() -> str:
    """The platform's environment may lack pip, so other interpreters are tried too."""
    own_pip = [sys.executable, "-m", "pip"]
    base_pip = [getattr(sys, "_base_executable", sys.executable), "-m", "pip"]  # outside of a virtual environment
    for pip in (own_pip, base_pip, [shutil.which("pip3") or "pip3"]):
        try:
            answer = subprocess.run([*pip, "config", "list"], capture_output=True, text=True, timeout=60)
        except OSError:
            continue
        if answer.returncode == 0:
            return answer.stdout
    return ""
