"""The old path of engines/base.py, with its old names."""

from core.units import GIB, MIB
from engines.base import (
    COMMON_SYMPTOMS,
    AdapterRoutes,
    Engine,
    EngineAdapter,
    EngineReadings,
    LaunchCommand,
    LaunchRequest,
    LogDiagnosis,
    MemoryEstimate,
    Symptom,
    diagnose_log,
)
from engines.crash_cause import Cause
from inference.engines import warn

__all__ = [
    "COMMON_SYMPTOMS", "GIB", "MIB", "AdapterRoutes", "Cause", "Command", "Diagnosis", "Engine", "EngineAdapter",
    "Estimate", "LaunchRequest", "Readings", "Symptom", "diagnose",
]  # fmt: skip

Command, Diagnosis, Estimate, Readings, diagnose = (
    LaunchCommand, LogDiagnosis, MemoryEstimate, EngineReadings, diagnose_log,
)  # fmt: skip

warn("base")
