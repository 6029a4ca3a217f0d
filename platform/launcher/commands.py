"""Dispatches the commands of manage.py. The launcher's own commands need no Django."""

import os
import sys
from collections.abc import Sequence
from importlib import import_module

from django.core.management import execute_from_command_line
from django.db.utils import OperationalError

from launcher import data_folder, run_state

HELP = """Serai's own commands:
    up      start everything, in the foreground
    test    set up and run the tests; takes pytest's arguments
    web     the web server alone
    verify  break a throw-away product on purpose
"""
LAUNCHER_COMMANDS = {
    "up": "launcher.up",
    "test": "launcher.testing",
    "web": "launcher.web",
    "verify": "verification.main",
}


def run(arguments: Sequence[str]) -> int:
    """`arguments` as in sys.argv. Returns the exit code."""
    name = "".join(arguments[1:2])
    if name in LAUNCHER_COMMANDS:
        return import_module(LAUNCHER_COMMANDS[name]).main(arguments[2:])
    if list(arguments[1:]) in ([], ["help"], ["--help"]):
        print(HELP)
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    run_state.use_running_servers(data_folder.data_folder())
    try:
        execute_from_command_line(list(arguments))
    except OperationalError as error:
        reason = str(error).partition("\n")[0]
        print(f"serai: The database does not answer ({reason}). Is `manage.py up` running?", file=sys.stderr)
        return 1
    return 0
