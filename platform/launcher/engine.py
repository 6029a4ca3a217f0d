"""The engine's installation as `manage.py engine install` records it in the data folder."""

import json
import os
from pathlib import Path

RECORD = "engine-install.json"
INSTALL = ("engine", "install", "vllm")
COMMAND = f"python3 manage.py {' '.join(INSTALL)}"


def is_ready(data: Path) -> bool:
    return _record(data).get("state") == "ready"


def is_left_out() -> bool:
    """Tests, and machines that only manage others, need no engine."""
    return os.environ.get("SERAI_SKIP_ENGINE_INSTALL") == "1"


def note(data: Path) -> str:
    """What the first banner says of it; nothing if the engine is there."""
    if is_ready(data):
        return ""
    if is_left_out():
        return f"No engine is installed, so models answer 503. To install one: {COMMAND}"
    return "The engine is being installed; until then the model answers 503 and says how far it is."


def how_to_mend(data: Path) -> str:
    reason = _record(data).get("progress") or "see the lines above"
    return f"The engine could not be installed ({reason}). All else works; to try again: {COMMAND}"


def _record(data: Path) -> dict:
    try:
        return json.loads((data / RECORD).read_text())
    except (FileNotFoundError, ValueError):
        return {}
