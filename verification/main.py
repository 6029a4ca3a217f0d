"""`manage.py verify`: each run has a sandbox, so that no product's data, engines or servers are touched."""

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib import import_module
from pathlib import Path

import django

from launcher import run_state
from launcher.temporary_servers import TemporaryServers


def main(arguments: Sequence[str]) -> int:
    """Prints the results as JSON. The exit code is 1 if an invariant was violated."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that the clean-up runs
    with _sandbox() as folder, SERVER_CONTEXTS[options.what](folder) as servers:
        results = import_module(f"verification.{options.what}").run(folder, servers, options)
    text = json.dumps(results, indent=2)
    print(text)
    if options.out:
        options.out.write_text(text)
    return 1 if results["broken"] else 0


@contextmanager
def _sandbox() -> Iterator[Path]:
    """A folder, and an environment without the servers and folders of a product."""
    for name in run_state.SERVER_VARIABLES:
        os.environ.pop(name, None)
        os.environ.pop(f"{name}_FILE", None)
    folder = Path(tempfile.mkdtemp(prefix="serai-verify-"))
    os.environ.update(SERAI_DATA=str(folder), SERAI_NO_VENV="1", SERAI_SKIP_ENGINE_INSTALL="1")
    os.environ.update(SERAI_ENGINE_ADAPTERS="verification.engine_plugin.MockEngine", SERAI_MIN_RESIDENCY="1")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _temporary_servers(folder: Path) -> Iterator[TemporaryServers]:
    """Temporary servers, whose URLs Django's settings read from the environment."""
    os.environ.setdefault("SERAI_LOG_LEVEL", "WARNING")
    os.environ["DJANGO_SETTINGS_MODULE"] = "config.settings"
    servers = TemporaryServers(folder, durable=True)
    try:
        os.environ.update(servers.start())
        django.setup()
        yield servers
    finally:
        servers.stop()


ServerContext = Callable[[Path], AbstractContextManager[object]]
SERVER_CONTEXTS: dict[str, ServerContext] = {"lifecycle": _temporary_servers, "streams": nullcontext}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="manage.py verify", description="Break a throw-away product on purpose.")
    subjects = parser.add_subparsers(dest="what", required=True)
    lifecycle = subjects.add_parser("lifecycle", help="random sequences of starts, stops and kills on two agents")
    lifecycle.add_argument("--sequences", type=int, default=500, help="how many (default 500)")
    lifecycle.add_argument("--seed", type=int, default=int(time.time()), help="of the first one; each has the next")
    lifecycle.add_argument("--together", type=int, default=4, help="so many run at the same time (default 4)")
    lifecycle.add_argument("--seconds-limit", type=float, default=3600, help="begin no more after this (default 3600)")
    streams = subjects.add_parser("streams", help="clients that stream while models and stores are restarted")
    streams.add_argument("--clients", type=int, default=200, help="how many (default 200)")
    for subject in (lifecycle, streams):
        subject.add_argument("--out", type=Path, help="write the figures there, too")
    return parser
