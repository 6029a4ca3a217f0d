"""The engine's installation as `manage.py engine install` records it in the data folder."""

import json
from pathlib import Path

RECORD = "engine-install.json"
INSTALL = ("engine", "install", "vllm")


def is_ready(data: Path) -> bool:
    return _record(data).get("state") == "ready"


def how_to_mend(data: Path) -> str:
    reason = _record(data).get("progress") or "see the lines above"
    command = f"python3 manage.py {' '.join(INSTALL)}"
    return f"The engine could not be installed ({reason}). All else works; to try again: {command}"


def _record(data: Path) -> dict:
    try:
        return json.loads((data / RECORD).read_text())
    except (FileNotFoundError, ValueError):
        return {}
