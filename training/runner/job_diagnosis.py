"""Diagnoses why a trainer ended, from its error event, last log lines, exit and shim."""

import errno

from core.errors import PlatformError
from engines.base import Diagnosis, Symptom, diagnose
from engines.causes import Cause
from inference.crashes.dossiers import Finding
from inference.logs.lines import clean, for_tenant
from node_agent import shims
from node_agent.failure_diagnosis import ending, last_lines, was_killed

LONGEST_REASON = 500
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
TOLD_SYMPTOMS = [
    Symptom(r"out of memory|memory does not hold", "", Cause.OUT_OF_MEMORY),
    Symptom(r"disk is full|on the disk", "", Cause.DISK_FULL),
]


def after_end(job_id: str, state: shims.ShimState | None, reported: str) -> Finding:
    """`reported` is the reason in the trainer's error event, empty if there is none."""
    lines = last_lines(job_id)
    found = _diagnose_reported(reported) if reported else _diagnose_lines(state, lines)
    reason = for_tenant(clean(found.meaning))[:LONGEST_REASON]
    if state is None:
        return Finding(found.cause, reason, lines)
    return Finding(found.cause, reason, lines, state.exit_code, state.signal, state.max_rss_bytes or None)


def of_error(error: PlatformError | OSError | shims.LaunchFailed) -> Finding:
    """For a run that could not start, or whose result could not be saved."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return Finding(Cause.DISK_FULL, DISK_FULL)
    if isinstance(error, PlatformError):
        return Finding(Cause.UNKNOWN, str(error.message))
    return Finding(Cause.UNKNOWN, for_tenant(clean(str(error)))[:LONGEST_REASON])


def _diagnose_reported(reason: str) -> Diagnosis:
    known = diagnose(TOLD_SYMPTOMS, [reason])
    return Diagnosis(known.cause if known else Cause.UNKNOWN, reason)


def _diagnose_lines(state: shims.ShimState | None, lines: list[str]) -> Diagnosis:
    found = diagnose(SYMPTOMS, lines)
    if was_killed(state) and (found is None or found.cause != Cause.OUT_OF_MEMORY):
        return Diagnosis(Cause.KILLED, f"The training ended: {ending(state)}.")
    if found is None:
        return Diagnosis(Cause.UNKNOWN, f"The training ended: {ending(state)}.")
    return Diagnosis(found.cause, f"{found.meaning} ({ending(state)})")
