"""An engine that is compiled on this machine: from a source in a package, with real CMake, Ninja and compiler."""

import io
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from engines import build, commands
from engines.recipes import BuildSource

PROJECT = "cmake_minimum_required(VERSION 3.14)\nproject(probe CXX)\nadd_executable(probe main.cpp)\n"
PROJECT += "set_target_properties(probe PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)\n"
MAIN = '#include <cstdio>\nint main() { std::puts("probe " ANSWER); }\n'
FAKE_PIP = """#!/bin/sh
# Stands for the environment's Python, asked to run pip download: the package lies in a folder beside.
while [ "$1" != "-d" ]; do shift; done
cp "{archive}" "$2/"
"""


def make_archive(path: Path, main: str) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, text in {"CMakeLists.txt": PROJECT, "main.cpp": main}.items():
            entry = tarfile.TarInfo(f"package-1.0/vendor/probe/{name}")
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    return path


@pytest.fixture
def compiled(tmp_path):
    """Compiles a package with that main.cpp; returns the program and what was told on the way."""
    if not (shutil.which("cmake") and shutil.which("ninja")):
        pytest.skip("cmake and ninja are not installed; an engine's environment brings its own")

    def run(main: str) -> tuple[Path, list[tuple[int, str]]]:
        folder, told = tmp_path / "environment", []
        (folder / "bin").mkdir(parents=True)
        for tool in ("cmake", "ninja"):
            (folder / "bin" / tool).symlink_to(shutil.which(tool))
        python = folder / "bin" / "python"
        python.write_text(FAKE_PIP.format(archive=make_archive(tmp_path / "package-1.0.tar.gz", main)))
        python.chmod(0o755)
        settings = tmp_path / "settings.cmake"
        settings.write_text('set(CMAKE_BUILD_TYPE Release CACHE STRING "")\n')
        source = BuildSource(
            tmp_path / "lock.txt", "vendor/probe", "probe", (settings,), ('CMAKE_CXX_FLAGS=-DANSWER=\\"42\\"',)
        )
        note = lambda percent, progress: told.append((percent, progress))  # noqa: E731
        build.SourceBuild(source, folder, commands.CommandRunner(), note).run()
        return folder / source.program, told

    return run


def test_the_program_runs_and_nothing_else_is_left(compiled, tmp_path):
    program, told = compiled(MAIN)
    assert subprocess.check_output([program], text=True) == "probe 42\n"
    assert sorted(path.name for path in program.parents[1].iterdir()) == ["bin"]
    assert told[-1] == (90, "compiled 2 of 2 files")
    assert [percent for percent, _progress in told] == sorted(percent for percent, _progress in told)


def test_a_source_that_does_not_compile_is_told_by_its_errors_and_leaves_nothing(compiled, tmp_path):
    with pytest.raises(build.BuildFailed, match="error: .*nonsense"):
        compiled("int main() { return nonsense; }\n")
    assert [path.name for path in (tmp_path / "environment").iterdir()] == ["bin"]


def test_a_machine_without_a_compiler_is_told_which_package_brings_one(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(build.BuildFailed, match=r"apt-get install g\+\+"):
        build.require_compiler()


def test_a_program_that_fails_is_told_by_its_last_lines():
    with pytest.raises(commands.CommandFailed) as caught:
        commands.CommandRunner().run([sys.executable, "-c", "print('one'); print('two'); raise SystemExit(3)"])
    assert caught.value.output == ["one", "two"]
