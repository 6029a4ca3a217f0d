"""Crash dossiers: the agent writes one when an engine ends unexpectedly; a limited number is kept per model."""

from dataclasses import dataclass, field
from itertools import groupby

from accounts.actor import Actor
from engines.crash_cause import Cause
from inference.crashes.advice import ADVICE
from inference.logs.lines import clean_line, redact_for_tenant
from inference.models import CrashDossier, Device, Instance
from models_app.models import Model

MAX_PER_MODEL = 20


@dataclass(frozen=True)
class CrashDiagnosis:
    """Why a run ended, as far as it is known, and the evidence: last lines, exit status, peak memory."""

    cause: Cause
    reason: str
    lines: list[str] = field(default_factory=list)
    exit_code: int | None = None
    exit_signal: int | None = None
    peak_bytes: int | None = None

    @property
    def instance_fields(self) -> dict:
        """The fields of it in the instance's row."""
        exit_fields = {"exit_code": self.exit_code, "exit_signal": self.exit_signal}
        return {"failure_reason": self.reason, "failure_cause": self.cause, "log_tail": self.lines} | exit_fields


def save_dossier(instance: Instance, finding: CrashDiagnosis) -> None:
    """Save a dossier, one per run, and delete all but the newest of its model."""
    fields = {
        "tenant_id": instance.tenant_id,
        "model_id": instance.model_id,
        "cause": finding.cause,
        "reason": finding.reason,
        "exit_code": finding.exit_code,
        "exit_signal": finding.exit_signal,
        "log_tail": [clean_line(line) for line in finding.lines],
        "launch": instance.launch,
        "memory": _memory(instance, finding),
        "started_at": instance.started_at,
    }
    CrashDossier.objects.update_or_create(instance=instance, generation=instance.running_generation, defaults=fields)
    of_model = CrashDossier.objects.filter(model_id=instance.model_id)
    kept = list(of_model.values_list("pk", flat=True)[:MAX_PER_MODEL])
    of_model.exclude(pk__in=kept).delete()


def _memory(instance: Instance, finding: CrashDiagnosis) -> dict:
    """Bytes: of the run, and of its devices after its end."""
    devices = Device.objects.filter(reservations__owner=instance.pk)
    return {
        "peak": max(filter(None, [finding.peak_bytes, instance.peak_bytes]), default=None),
        "last": instance.memory_bytes,
        "devices": [
            {"device": f"{device.kind}:{device.index}", "total": device.total_bytes, "used": device.used_bytes}
            for device in devices
        ],
    }


def crash_overview(model: Model, actor: Actor) -> dict:
    """A model's crashes, newest first, and its causes, the most frequent first."""
    dossiers = list(CrashDossier.objects.filter(model=model))
    return {"causes": _causes(dossiers), "crashes": [describe_dossier(dossier, actor) for dossier in dossiers]}


def _causes(dossiers: list[CrashDossier]) -> list[dict]:
    groups = [list(group) for _cause, group in groupby(sorted(dossiers, key=_by_cause), key=_by_cause)]
    return [
        {
            "cause": group[0].cause,
            "title": group[0].get_cause_display(),
            "advice": str(ADVICE[Cause(group[0].cause)]),
            "count": len(group),
            "last_at": max(dossier.created_at for dossier in group),
        }
        for group in sorted(groups, key=len, reverse=True)
    ]


def _by_cause(dossier: CrashDossier) -> str:
    return dossier.cause


def describe_dossier(dossier: CrashDossier, actor: Actor) -> dict:
    """Only operators see how it was started, its devices and the unfiltered lines."""
    unfiltered = actor.is_operator
    memory = dossier.memory if unfiltered else {name: dossier.memory.get(name) for name in ("peak", "last")}
    return {
        "id": dossier.pk,
        "instance_id": dossier.instance_id,
        "generation": dossier.generation,
        "cause": dossier.cause,
        "reason": dossier.reason,
        "exit_code": dossier.exit_code,
        "exit_signal": dossier.exit_signal,
        "log_tail": dossier.log_tail if unfiltered else [redact_for_tenant(line) for line in dossier.log_tail],
        "launch": dossier.launch if unfiltered else None,
        "memory": memory,
        "started_at": dossier.started_at,
        "ended_at": dossier.created_at,
    }
