"""manage.py engine: installs an engine into its own environment, or prints the state of the installation."""

import json
import signal
import sys
import time
from contextlib import suppress
from dataclasses import asdict

from django.core.management.base import BaseCommand, CommandError
from django.db.utils import OperationalError, ProgrammingError

from core import notify
from engines import install, recipes
from inference.models import ENGINES_CHANGED, Node

NOTICE_TIMEOUT = 5.0
POLL_INTERVAL = 0.1


class Command(BaseCommand):
    help = "Install an engine (engine install vllm or llama.cpp), or show what is installed (engine status)."
    requires_system_checks = []

    def add_arguments(self, parser):
        actions = parser.add_subparsers(dest="action", required=True)
        installing = actions.add_parser("install", help="Install an engine; instant when it is there.")
        installing.add_argument("engine", choices=sorted(recipes.RECIPES))
        actions.add_parser("status", help="One line of JSON for each engine.")

    def handle(self, *, action, engine=None, **options):
        if action == "status":
            for name in recipes.RECIPES:
                self.stdout.write(json.dumps(asdict(install.status(name))))
        else:
            self._install(engine)

    def _install(self, engine: str) -> None:
        # By default SIGTERM would end this process and leave its uv running.
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
        try:
            python = install.install_engine(engine, self._print)
        except install.InstallFailed as failure:
            raise CommandError(str(failure)) from failure
        with suppress(OperationalError, ProgrammingError):  # no database, or an empty one: nobody waits for the engine
            wait_until_noticed(engine)
        self._print(f"{engine} is ready: {python}")

    def _print(self, line: str) -> None:
        self.stdout.write(line)
        self.stdout.flush()


def wait_until_noticed(engine: str) -> None:
    """Tell this machine's agents of the engine; a start right after this command must not be refused for it."""
    notify.send(ENGINES_CHANGED)
    deadline = time.monotonic() + NOTICE_TIMEOUT
    while time.monotonic() < deadline and not _is_known(engine):
        time.sleep(POLL_INTERVAL)


def _is_known(engine: str) -> bool:
    """Whether every agent of this machine that serves this engine can start it."""
    known = Node.objects.online().of_this_machine().values_list("engines", flat=True)
    return all(not problems.get(engine) for problems in known)
