"""Diagnoses why an engine ended: from its last log lines, its exit status and its shim's state."""

import signal

from core.errors import PlatformError
from engines import registry
from engines.base import LogDiagnosis
from engines.crash_cause import Cause
from inference.crashes.dossiers import CrashDiagnosis
from inference.logs.lines import clean_line, redact_for_tenant
from inference.models import Instance, InstanceState
from models_app.artefacts import MissingWeights
from node_agent import folders, shims

TAIL_LINES = 120  # an engine with several processes logs the root cause first, then much about the lost process
EXTERNAL_SIGNALS = {signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP}


def diagnose_end(instance: Instance, state: shims.ShimState | None) -> CrashDiagnosis:
    """Diagnose a run that had started."""
    lines = last_log_lines(instance.pk)
    diagnosis = _diagnose(instance, state, lines)
    if state is None:
        return CrashDiagnosis(diagnosis.cause, diagnosis.meaning, lines)
    return CrashDiagnosis(
        diagnosis.cause, diagnosis.meaning, lines, state.exit_code, state.signal, state.max_rss_bytes or None
    )


def last_log_lines(owner: str) -> list[str]:
    return [clean_line(line.text) for line in shims.tail(folders.folder_of(owner), TAIL_LINES)]


def diagnose_start_failure(error: PlatformError | OSError | shims.LaunchFailed) -> CrashDiagnosis:
    """Diagnose a run that could not start."""
    cause = Cause.MISSING_FILE if isinstance(error, MissingWeights) else Cause.UNKNOWN
    return CrashDiagnosis(cause, redact_for_tenant(clean_line(str(error))))


def _diagnose(instance: Instance, state: shims.ShimState | None, lines: list[str]) -> LogDiagnosis:
    if _start_timed_out(instance, state):
        reason = f"The engine was not ready after {instance.start_timeout} seconds."
        return LogDiagnosis(Cause.TIMED_OUT, reason)
    found = registry.get(instance.model.framework).diagnose(lines)
    if was_killed(state) and (found is None or found.cause != Cause.OUT_OF_MEMORY):
        return LogDiagnosis(Cause.KILLED, f"The engine ended: {describe_end(state)}.")
    if found is None:
        return LogDiagnosis(Cause.UNKNOWN, f"The engine ended: {describe_end(state)}.")
    return LogDiagnosis(found.cause, redact_for_tenant(f"{found.meaning} ({describe_end(state)})"))


def was_killed(state: shims.ShimState | None) -> bool:
    return state is None or state.signal in EXTERNAL_SIGNALS


def _start_timed_out(instance: Instance, state: shims.ShimState | None) -> bool:
    """While an engine starts and is still wanted, only the agent's start timeout requests its stop."""
    return state is not None and state.reason == "stop" and instance.state == InstanceState.STARTING


def describe_end(state: shims.ShimState | None) -> str:
    if state is None:
        return "no trace of it was left"
    if state.signal:
        return f"killed by signal {state.signal}"
    return f"exit code {state.exit_code}"
