"""The configuration that all processes share: typed, with ranges, cached, in force everywhere within 2 s.

A long-running process calls `watch_changes()` once; in other processes `current()` reads it again after a second.
"""

import logging
import threading
import time
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from django.conf import settings
from django.db import DatabaseError, InterfaceError, close_old_connections, transaction
from django.db.models import QuerySet
from django.utils.translation import gettext as _

from accounts import audit
from accounts.actor import Actor
from accounts.models import AuditRecord, ConfigurationValue
from core.errors import InvalidRequest
from core.periodic import LoopSeverity, Periodic

logger = logging.getLogger(__name__)

CHANGE = "configuration.change"  # the action in the audit log
_REFRESH_INTERVAL = 1.0
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


def number_field(default: int | float, low: int | float, high: int | float):
    return field(default=default, metadata={"low": low, "high": high})


@dataclass(frozen=True)
class AlertThresholds:
    """Percent, degrees Celsius, seconds, and a share from 0 to 1."""

    gpu_utilization_high: float = number_field(90, 0, 100)
    gpu_temperature_high: float = number_field(80, 0, 150)
    response_time_high: float = number_field(2.0, 0.001, 3600)
    error_rate_high: float = number_field(0.05, 0, 1)


@dataclass(frozen=True)
class Configuration:
    """Times in seconds: interval between samples, limit of a start, interval between health probes."""

    gpu_monitor_interval: int = number_field(30, 1, 3600)
    max_concurrent_models: int = number_field(10, 1, 10_000)
    default_model_timeout: int = number_field(300, 5, 7200)
    health_check_interval: int = number_field(60, 1, 3600)
    log_level: str = field(default=settings.LOG_LEVEL, metadata={"choices": LOG_LEVELS})
    alert_thresholds: AlertThresholds = field(default_factory=AlertThresholds)


SETTINGS = {f.name: f for f in fields(Configuration) if f.name != "alert_thresholds"}
SETTINGS |= {f"alert_thresholds.{f.name}": f for f in fields(AlertThresholds)}


class _Cache:
    """The configuration that was read last. It stays in force while the database is unreachable."""

    def __init__(self):
        self.value = Configuration()
        self.watched = False
        self._loaded_at = float("-inf")  # by the monotonic clock
        self._lock = threading.Lock()

    def get(self) -> Configuration:
        with self._lock:
            if not self.watched and time.monotonic() - self._loaded_at > _REFRESH_INTERVAL:
                self.refresh()
            return self.value

    def refresh(self) -> None:
        try:
            self.value = _load()
        except (DatabaseError, InterfaceError) as error:
            logger.warning("configuration: kept, the database is away (%s)", type(error).__name__)
        self._loaded_at = time.monotonic()

    def watch(self) -> None:
        loop = Periodic("configuration", LoopSeverity.HIGH, _REFRESH_INTERVAL)
        while True:
            with loop.turn():
                close_old_connections()
                self.refresh()
                self.watched = True
                logging.getLogger().setLevel(self.value.log_level)
            time.sleep(_REFRESH_INTERVAL)


_cache = _Cache()


def current() -> Configuration:
    """The configuration in force now. Never waits in a process that called `watch_changes()`."""
    return _cache.get()


def watch_changes() -> None:
    """Keep this process's configuration and log level up to date, in a daemon thread."""
    threading.Thread(target=_cache.watch, name="configuration", daemon=True).start()


@transaction.atomic
def change(actor: Actor, patch: dict, request=None) -> Configuration:
    """Merge `patch`, nested objects too. Raises InvalidRequest that names each wrong field."""
    flat = _check(patch)
    before = _flatten(asdict(_load()))
    for key, value in flat.items():
        if before[key] == value:
            continue
        row, _created = ConfigurationValue.objects.update_or_create(
            key=key, defaults={"value": value, "changed_by": actor.user}
        )
        audit.record(actor, CHANGE, row, request=request, old=before[key], new=value)
    transaction.on_commit(_cache.refresh)
    return _load()


def history(setting: str | None = None) -> QuerySet:
    """All changes, newest first. Nested settings are named like `alert_thresholds.error_rate_high`."""
    changes = AuditRecord.objects.filter(action=CHANGE)
    return changes.filter(object_id=setting) if setting else changes


def _load() -> Configuration:
    values = dict(ConfigurationValue.objects.values_list("key", "value"))
    thresholds = {f.name: values.get(f"alert_thresholds.{f.name}", f.default) for f in fields(AlertThresholds)}
    plain = {f.name: values.get(f.name, f.default) for f in fields(Configuration) if f.name != "alert_thresholds"}
    return Configuration(**plain, alert_thresholds=AlertThresholds(**thresholds))


def _flatten(nested: dict) -> dict:
    """Only thresholds are nested; any other object, even an empty one, is a wrong value."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if key == "alert_thresholds":
            flat |= {f"{key}.{name}": threshold for name, threshold in value.items()}
        else:
            flat[key] = value
    return flat


def _check(patch: dict) -> dict:
    """The patch with flat keys. Raises InvalidRequest that names all wrong fields."""
    if not isinstance(patch, dict) or not isinstance(patch.get("alert_thresholds", {}), dict):
        raise InvalidRequest(details={"alert_thresholds": _("An object is expected.")})
    flat = _flatten(patch)
    wrong = {key: _find_problem(SETTINGS.get(key), value) for key, value in flat.items()}
    wrong |= {key: _find_problem(None, None) for key in patch if "." in key}
    wrong = {key: problem for key, problem in wrong.items() if problem}
    if wrong:
        raise InvalidRequest(details=wrong)
    return flat


def _find_problem(setting_field, value) -> str:
    if setting_field is None:
        return _("There is no such setting.")
    if choices := setting_field.metadata.get("choices"):
        return "" if value in choices else _("One of %(choices)s is expected.") % {"choices": ", ".join(choices)}
    low, high = setting_field.metadata["low"], setting_field.metadata["high"]
    types = (int,) if setting_field.type is int else (int, float)
    if type(value) not in types or not low <= value <= high:
        return _("A number from %(low)s to %(high)s is expected.") % {"low": low, "high": high}
    return ""
