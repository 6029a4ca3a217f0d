"""The interface of an engine. To add one, subclass Engine and name it in the settings."""

import logging
import re
from dataclasses import dataclass, field
from pathlib import Path

from django.utils.translation import gettext_lazy as _

from engines import install
from engines.crash_cause import Cause
from engines.prometheus_parser import Histogram, MetricsPage
from models_app import options
from models_app.artefacts import Artefact
from models_app.models import Mode, Model
from models_app.options import AdapterLimits

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class MemoryEstimate:
    """Device memory of one instance, in bytes. `kv_cache` is passed to the engine, so that it uses what is claimed."""

    weights: int
    overhead: int
    kv_cache: int

    @property
    def total(self) -> int:
        return self.weights + self.overhead + self.kv_cache


@dataclass(frozen=True)
class LaunchRequest:
    """One start of one instance: what to serve, from where, on which devices, with how much KV cache (bytes)."""

    model: Model
    served_name: str
    path: Path
    artefact: Artefact
    socket: Path
    device_kind: str
    device_indexes: tuple[int, ...]
    estimate: MemoryEstimate
    work_folder: Path


@dataclass(frozen=True)
class LaunchCommand:
    argv: list[str]
    env: dict[str, str]


@dataclass(frozen=True)
class AdapterRoutes:
    """The POST routes of a running engine for adapters; they take `lora_name` (and `lora_path`)."""

    load: str
    unload: str


@dataclass(frozen=True)
class EngineReadings:
    """The values of an engine's metrics page, with the same names for every engine. None: the engine lacks it.

    `running` and `waiting` are current requests, `kv_usage` is the share of the KV cache in use, 0 to 1. All others are
    counters since the engine's start: tokens (`cached_tokens` are the part of `prompt_tokens` that was not computed
    again; of `prefix_queries` tokens looked up in the prefix cache `prefix_hits` were found), preemptions in requests,
    and in seconds the time to the first token (`ttft`) and per output token after it (`tpot`), one observation per
    request. A counter that went down means a new engine.
    """

    running: int | None = None
    waiting: int | None = None
    kv_usage: float | None = None
    prompt_tokens: int | None = None
    generation_tokens: int | None = None
    cached_tokens: int | None = None
    prefix_queries: int | None = None
    prefix_hits: int | None = None
    preemptions: int | None = None
    ttft: Histogram | None = None
    tpot: Histogram | None = None


@dataclass(frozen=True)
class Symptom:
    """A pattern in the last log lines, its meaning for a person, and the cause that it indicates."""

    pattern: str
    meaning: str
    cause: Cause = Cause.UNKNOWN
    regex: re.Pattern[str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "regex", re.compile(self.pattern, re.IGNORECASE))


@dataclass(frozen=True)
class LogDiagnosis:
    cause: Cause
    meaning: str


COMMON_SYMPTOMS = [
    Symptom(r"(The model's files could not be fetched: .+)\.", "{0}.", Cause.MISSING_FILE),
    Symptom(
        r"out of memory|cannot allocate memory|MemoryError|std::bad_alloc",
        "The engine ran out of memory.",
        Cause.OUT_OF_MEMORY,
    ),
    Symptom(r"No space left on device", "The disk is full.", Cause.DISK_FULL),
    Symptom(r"Permission denied: '?([^'\n]+)'?", "The engine may not read {0}.", Cause.MISSING_FILE),
    Symptom(r"No such file or directory: '?([^'\n]+)'?", "A file is missing: {0}", Cause.MISSING_FILE),
]


UNAVAILABLE_MESSAGES = {
    install.INSTALLING: _("The engine %(engine)s is being installed: %(progress)s"),
    install.FAILED: _("The engine %(engine)s could not be installed: %(error)s"),
    install.ABSENT: _("The engine %(engine)s is not installed: run python3 manage.py engine install %(name)s."),
}


class Engine:
    """One engine: its memory needs, its command, and how its metrics and logs are read.

    Subclasses hold no state, and their only I/O is to read what they are given.
    """

    name: str
    title: str  # its display name
    health_path = "/health"
    symptoms: list[Symptom] = []
    adapter_routes: AdapterRoutes | None = None  # None: this engine loads no adapters while it runs
    reading_names: dict[
        str, str
    ] = {}  # a field of EngineReadings → the engine's name for it, a histogram's without _bucket

    def unavailable_reason(self) -> str | None:
        """Why the engine cannot run on this machine now, as a sentence; None if it can."""
        status = install.status(self.name)
        parameters = {"engine": self.title, "name": self.name, "progress": status.progress, "error": status.error}
        return UNAVAILABLE_MESSAGES[status.state] % parameters if status.state != install.READY else None

    def estimate(self, model: Model, artefact: Artefact, device_kind: str) -> MemoryEstimate:
        """Memory that one instance of `model` needs on a device of this kind."""
        raise NotImplementedError

    def adapter_limits(self, model: Model) -> AdapterLimits | None:
        """The adapter limits of the engine when it is started for `model` now; None if it takes none."""
        return options.adapter_limits(model.config) if self.adapter_routes and model.mode == Mode.CHAT else None

    def command(self, request: LaunchRequest) -> LaunchCommand:
        """The arguments and the complete environment of the engine process; it listens on `request.socket`."""
        raise NotImplementedError

    def readings(self, metrics: str) -> EngineReadings:
        """The engine's metrics page as EngineReadings. An unreadable page gives readings that are all None."""
        page = _NamedMetrics(MetricsPage(metrics, self.reading_names.values()), self.reading_names)
        return EngineReadings(
            running=page.total("running"),
            waiting=page.total("waiting"),
            kv_usage=page.usage("kv_usage"),
            prompt_tokens=page.total("prompt_tokens"),
            generation_tokens=page.total("generation_tokens"),
            cached_tokens=page.total("cached_tokens"),
            prefix_queries=page.total("prefix_queries"),
            prefix_hits=page.total("prefix_hits"),
            preemptions=page.total("preemptions"),
            ttft=page.histogram("ttft"),
            tpot=page.histogram("tpot"),
        )

    def diagnose(self, log: list[str]) -> LogDiagnosis | None:
        """Diagnose the engine's end from its last log lines; None if no symptom matches."""
        return diagnose_log([*self.symptoms, *COMMON_SYMPTOMS], log)


class EngineAdapter(Engine):
    """The old name of Engine with its old method, so that an operator's own class works for one release longer."""

    def __init_subclass__(cls, **arguments: object) -> None:
        super().__init_subclass__(**arguments)
        logger.warning("%s.%s: subclass engines.base.Engine, not EngineAdapter", cls.__module__, cls.__qualname__)

    def unavailable_reason(self) -> str | None:
        return self.unavailable_because()

    def unavailable_because(self) -> str | None:
        return super().unavailable_reason()


def diagnose_log(symptoms: list[Symptom], log: list[str]) -> LogDiagnosis | None:
    """Match the newest line first. None if no symptom matches.

    Symptoms with a known cause take precedence over those that only repeat the log; then the order of the list counts.
    """
    for symptom in sorted(symptoms, key=lambda symptom: symptom.cause == Cause.UNKNOWN):
        for line in reversed(log):
            if match := symptom.regex.search(line):
                return LogDiagnosis(symptom.cause, symptom.meaning.format(*match.groups()))
    return None


@dataclass(frozen=True)
class _NamedMetrics:
    """A metrics page, asked by our names of readings. None for a reading that the engine lacks.

    Requests and tokens are summed over the ranks of one engine; of caches the fullest counts.
    """

    page: MetricsPage
    names: dict[str, str]

    def total(self, reading: str) -> int | None:
        total = self.page.total(self.names[reading]) if reading in self.names else None
        return None if total is None else int(total)

    def usage(self, reading: str) -> float | None:
        usage = self.page.highest(self.names[reading]) if reading in self.names else None
        return None if usage is None else min(usage, 1.0)

    def histogram(self, reading: str) -> Histogram | None:
        return self.page.histogram(self.names[reading]) if reading in self.names else None
