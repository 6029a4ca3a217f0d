"""Fetches a model's files from a package of the Python index, then becomes the engine.

    bring.py UV LOCK INSIDE FOLDER ENGINE ARGUMENT …

Runs under the shim in the engine's place, so that it is stopped, limited and logged like the engine. The lock names
one package with its hash; its folder INSIDE becomes FOLDER. The environment of uv is JSON in SERAI_FETCH_SECRETS,
since addresses of package indexes may contain passwords; the engine does not receive it. Standard library only.
"""

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

SECRETS_VARIABLE = "SERAI_FETCH_SECRETS"
EXIT_FAILED = 3
FAILURE_CAUSES = (
    (r"No space left|os error 28\b|[Dd]isk quota", "the disk is full"),
    (r"[Hh]ash mismatch", "the package differs from its hash: do not trust the package index"),
    (
        r"dns error|[Cc]onnection (refused|timed out|reset)|[Nn]etwork is unreachable|error sending request",
        "the package index cannot be reached: check the network or pip's settings",
    ),
    (r"not found in the package registry|No solution found", "the package index does not have the package"),
)


def main(uv: str, lock: str, inside: str, folder: str, *engine: str) -> None:
    environment = json.loads(os.environ.pop(SECRETS_VARIABLE))
    target = Path(folder)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.with_name(f".{target.name}.lock").open("w") as lock_file:
            fcntl.flock(lock_file, fcntl.LOCK_EX)
            if not target.exists():
                _fetch([uv, "pip", "install", "--requirement", lock], inside, target, environment)
    except OSError as error:
        _fail(str(error))
    os.execve(engine[0], engine, os.environ)


def _fetch(install: list[str], inside: str, target: Path, environment: dict[str, str]) -> None:
    """Install next to the target first; it appears only when it is complete."""
    print(f"Fetching the files of {target.name}.", flush=True)
    draft = target.with_name(f".{target.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    options = ["--target", str(draft), "--python", sys.executable]
    options += ["--no-deps", "--require-hashes", "--no-cache", "--color", "never"]
    with subprocess.Popen(
        [*install, *options], env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    ) as process:  # fmt: skip
        assert process.stdout, "it is a pipe"
        output = [_echo(line) for line in process.stdout]
    if process.returncode:
        shutil.rmtree(draft, ignore_errors=True)
        _fail("".join(output))
    (draft / inside).rename(target)
    shutil.rmtree(draft, ignore_errors=True)


def _echo(line: str) -> str:
    print(line, end="", flush=True)
    return line


def _fail(output: str) -> None:
    causes = (cause for pattern, cause in FAILURE_CAUSES if re.search(pattern, output))
    reason = next(causes, output.strip().rpartition("\n")[2])
    print(f"The model's files could not be fetched: {reason}.", flush=True)
    sys.exit(EXIT_FAILED)


if __name__ == "__main__":
    main(*sys.argv[1:])
