"""Diagnoses why an engine ended: from its last log lines, its exit status and its shim's state."""

import signal

from core.errors import PlatformError
from engines import registry
from engines.base import Diagnosis
from engines.causes import Cause
from inference.crashes.dossiers import Finding
from inference.logs.lines import clean, for_tenant
from inference.models import Instance, State
from models_app.artefacts import Missing
from node_agent import folders, shims

TAIL_LINES = 120  # an engine with several processes logs the root cause first, then much about the lost process
FROM_OUTSIDE = {signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP}


def after_end(instance: Instance, state: shims.ShimState | None) -> Finding:
    """Diagnose a run that had started."""
    lines = last_lines(instance.pk)
    diagnosis = _diagnose(instance, state, lines)
    if state is None:
        return Finding(diagnosis.cause, diagnosis.meaning, lines)
    return Finding(
        diagnosis.cause, diagnosis.meaning, lines, state.exit_code, state.signal, state.max_rss_bytes or None
    )


def last_lines(owner: str) -> list[str]:
    return [clean(line.text) for line in shims.tail(folders.folder_of(owner), TAIL_LINES)]


def before_start(error: PlatformError | OSError | shims.LaunchFailed) -> Finding:
    """Diagnose a run that could not start."""
    cause = Cause.MISSING_FILE if isinstance(error, Missing) else Cause.UNKNOWN
    return Finding(cause, for_tenant(clean(str(error))))


def _diagnose(instance: Instance, state: shims.ShimState | None, lines: list[str]) -> Diagnosis:
    if _start_timed_out(instance, state):
        reason = f"The engine was not ready after {instance.start_timeout} seconds."
        return Diagnosis(Cause.TIMED_OUT, reason)
    found = registry.get(instance.model.framework).diagnose(lines)
    if was_killed(state) and (found is None or found.cause != Cause.OUT_OF_MEMORY):
        return Diagnosis(Cause.KILLED, f"The engine ended: {ending(state)}.")
    if found is None:
        return Diagnosis(Cause.UNKNOWN, f"The engine ended: {ending(state)}.")
    return Diagnosis(found.cause, for_tenant(f"{found.meaning} ({ending(state)})"))


def was_killed(state: shims.ShimState | None) -> bool:
    return state is None or state.signal in FROM_OUTSIDE


def _start_timed_out(instance: Instance, state: shims.ShimState | None) -> bool:
    """While an engine starts and is still wanted, only the agent's start timeout requests its stop."""
    return state is not None and state.reason == "stop" and instance.state == State.STARTING


def ending(state: shims.ShimState | None) -> str:
    if state is None:
        return "no trace of it was left"
    if state.signal:
        return f"killed by signal {state.signal}"
    return f"exit code {state.exit_code}"
