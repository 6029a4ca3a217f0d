"""The whole tree passes ruff and mypy, with the settings in pyproject.toml."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def run_tool(*arguments: str, **environment: str) -> None:
    command = [sys.executable, "-m", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(arguments)}:\n{done.stdout}{done.stderr}"


def test_the_linter_finds_nothing():
    run_tool("ruff", "check", ".")


def test_the_code_is_formatted():
    run_tool("ruff", "format", "--check", ".")


def test_the_types_are_right(tmp_path):
    run_tool("mypy", SERAI_DATA=str(tmp_path))
