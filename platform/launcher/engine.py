"""The installation of the engine's environment, which `up` runs in the background, and the messages about it."""

import os

from launcher.child import Child

INSTALL = ("engine", "install", "vllm")
COMMAND = f"python3 manage.py {' '.join(INSTALL)}"


def is_skipped() -> bool:
    """Tests, and machines that only manage others, need no engine."""
    return os.environ.get("SERAI_SKIP_ENGINE_INSTALL") == "1"


def status_message(installer: Child | None) -> str:
    """The banner's line about the engine; empty if it is installed."""
    if installer is None:
        return f"No engine is installed by this start, so models may answer 503. To install one: {COMMAND}"
    if not installer.has_ended:
        return "The engine is being installed; until then the model answers 503 and says how far it is."
    return "" if installer.process.returncode == 0 else failure_message(installer)


def failure_message(installer: Child) -> str:
    lines = [line for line in installer.lines if line.strip()]
    reason = lines[-1] if lines else installer.exit_text
    return f"The engine could not be installed ({reason}). All else works; to try again: {COMMAND}"
