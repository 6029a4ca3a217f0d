"""Diagnoses why a trainer ended, from its error event, last log lines, exit and shim."""

import errno

from core.errors import PlatformError
from engines.base import LogDiagnosis, Symptom, diagnose_log
from engines.crash_cause import Cause
from inference.crashes.dossiers import CrashDiagnosis
from inference.logs.lines import clean_line, redact_for_tenant
from node_agent import shims
from node_agent.crash_diagnosis import describe_end, last_log_lines, was_killed

MAX_REASON = 500
DISK_FULL = "The disk is full."
SYMPTOMS = [
    Symptom(
        r"out of memory|cannot allocate memory|MemoryError|std::bad_alloc",
        "The training ran out of memory: lower batchSize, maxSeqLength or loraRank.",
        Cause.OUT_OF_MEMORY,
    ),
    Symptom(r"No space left on device|Disk quota exceeded|File too large", DISK_FULL, Cause.DISK_FULL),
    Symptom(
        r"SafetensorError|Error.*while loading the weights", "The base's weights are damaged.", Cause.BROKEN_WEIGHTS
    ),
    Symptom(r"No such file or directory: '?([^'\n]+)'?", "A file is missing: {0}", Cause.MISSING_FILE),
    Symptom(r"^((?:\w+\.)*\w*(?:Error|Exception): .+)", "{0}"),
]
REPORTED_SYMPTOMS = [
    Symptom(r"out of memory|memory does not hold", "", Cause.OUT_OF_MEMORY),
    Symptom(r"disk is full|on the disk", "", Cause.DISK_FULL),
]


def diagnose_end(job_id: str, state: shims.ShimState | None, reported: str) -> CrashDiagnosis:
    """`reported` is the reason in the trainer's error event, empty if there is none."""
    lines = last_log_lines(job_id)
    found = _diagnose_reported(reported) if reported else _diagnose_lines(state, lines)
    reason = redact_for_tenant(clean_line(found.meaning))[:MAX_REASON]
    if state is None:
        return CrashDiagnosis(found.cause, reason, lines)
    return CrashDiagnosis(found.cause, reason, lines, state.exit_code, state.signal, state.max_rss_bytes or None)


def diagnose_error(error: PlatformError | OSError | shims.LaunchFailed) -> CrashDiagnosis:
    """For a run that could not start, or whose result could not be saved."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return CrashDiagnosis(Cause.DISK_FULL, DISK_FULL)
    if isinstance(error, PlatformError):
        return CrashDiagnosis(Cause.UNKNOWN, str(error.message))
    return CrashDiagnosis(Cause.UNKNOWN, redact_for_tenant(clean_line(str(error)))[:MAX_REASON])


def _diagnose_reported(reason: str) -> LogDiagnosis:
    known = diagnose_log(REPORTED_SYMPTOMS, [reason])
    return LogDiagnosis(known.cause if known else Cause.UNKNOWN, reason)


def _diagnose_lines(state: shims.ShimState | None, lines: list[str]) -> LogDiagnosis:
    found = diagnose_log(SYMPTOMS, lines)
    if was_killed(state) and (found is None or found.cause != Cause.OUT_OF_MEMORY):
        return LogDiagnosis(Cause.KILLED, f"The training ended: {describe_end(state)}.")
    if found is None:
        return LogDiagnosis(Cause.UNKNOWN, f"The training ended: {describe_end(state)}.")
    return LogDiagnosis(found.cause, f"{found.meaning} ({describe_end(state)})")
