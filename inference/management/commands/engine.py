"""manage.py engine: installs an engine into its own environment, or prints the state of the installation."""

import json
import signal
import sys
from dataclasses import asdict

from django.core.management.base import BaseCommand, CommandError

from engines import install, recipes


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
        self._print(f"{engine} is ready: {python}")

    def _print(self, line: str) -> None:
        self.stdout.write(line)
        self.stdout.flush()
