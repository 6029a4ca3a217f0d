"""Loads and unloads LoRA adapters in running engines.

An engine loses its adapters when it ends, so the loaded ones are recorded on its instance's row, for this run only. An
adapter to unload is first marked as leaving, so that gateways stop using it, and unloaded once no gateway uses it.
"""

import http.client
import json
import logging
import math
import re
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

from django.db.models import F, Q
from django.db.models.functions import Now

from engines import registry
from inference.instances.adapters import LEAVING, LOADED, REFUSED
from inference.instances.gateway_reports import AdapterUse, GatewayReports
from inference.models import Desired, Instance, InstanceState
from models_app.adapters import files
from models_app.models import AdapterVersion
from node_agent import folders
from node_agent.probes import UnixConnection
from node_agent.process_tree import RunKey

logger = logging.getLogger(__name__)

LOAD_TIMEOUT = 120.0
MAX_REASON_LENGTH = 300
PATH_PATTERN = re.compile(r"(?:/[\w.@-]+){2,}")
ERROR_PREFIX = "Call to add_lora method failed: "
ALREADY_LOADED = "already been loaded"

AdapterEntry = dict[str, str]  # `state`, `since` (ISO 8601) when it leaves, `reason` when it is refused
KnownAdapters = dict[str, AdapterEntry]  # version → its state in one run


@dataclass(frozen=True)
class WantedAdapter:
    """A version that may be requested: by the whole tenant if it is published, else by its creator."""

    id: str
    folder: Path
    published: bool = True


@dataclass(frozen=True)
class AdapterAnswer:
    """The result of one request to an engine. `known` is None once the version is unloaded."""

    version: str
    known: AdapterEntry | None


def versions_to_unload(known: KnownAdapters, wanted: Iterable[WantedAdapter], slots: int, use: AdapterUse) -> list[str]:
    """Loaded versions to unload: unwanted ones, and the least recently used to free slots for those waited for."""
    ids = {version.id for version in wanted}
    loaded = [version for version, entry in known.items() if entry["state"] == LOADED]
    unwanted = [version for version in loaded if version not in ids]
    waited_for = len((use.waiting & ids) - known.keys())
    missing_slots = len(loaded) - len(unwanted) + waited_for - slots
    idle = [version for version in loaded if version in ids and version not in use.busy | use.waiting]
    idle.sort(key=lambda version: use.idle.get(version, math.inf), reverse=True)
    return unwanted + idle[: max(0, missing_slots)]


def version_to_load(
    known: KnownAdapters, wanted: Iterable[WantedAdapter], slots: int, use: AdapterUse
) -> WantedAdapter | None:
    """The next version, if a slot is free: first those that requests wait for, then published ones, then trials."""
    if sum(entry["state"] != REFUSED for entry in known.values()) >= slots:
        return None
    missing = [version for version in wanted if version.id not in known]
    return min(missing, key=lambda version: (version.id not in use.waiting, not version.published), default=None)


class AdapterReconciler:
    """Brings each engine to its wanted adapters, one request at a time. `on_change` is called from a thread."""

    def __init__(self, on_change: Callable[[], None], threads: int = 4):
        self._on_change = on_change
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="adapters")
        self._requests: dict[RunKey, Future[AdapterAnswer | None]] = {}

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def reconcile(self, instances: list[Instance], traffic: GatewayReports, fence: int) -> None:
        eligible = [instance for instance in instances if _takes_adapters(instance)]
        runs = {(instance.pk, instance.running_generation) for instance in eligible}
        self._requests = {run: future for run, future in self._requests.items() if run in runs}
        base_models = {instance.model_id for instance in eligible}
        wanted = _wanted_by_model(base_models, traffic.adapters_waited_for()) if eligible else {}
        for instance in eligible:
            self._reconcile_engine(instance, wanted.get(instance.model_id, []), traffic, fence)

    def _reconcile_engine(
        self, instance: Instance, wanted: list[WantedAdapter], traffic: GatewayReports, fence: int
    ) -> None:
        run = (instance.pk, instance.running_generation)
        if run in self._requests and not self._requests[run].done():
            return
        known = _apply_answer(instance.adapters, self._requests.pop(run, None), wanted)
        use = traffic.adapter_use(instance.pk)
        leaving = versions_to_unload(known, wanted, instance.adapter_slots, use)
        known |= {version: {"state": LEAVING, "since": _database_now().isoformat()} for version in leaving}
        if known != instance.adapters and not _save_known(instance, known, fence):
            return
        request = self._next_request(instance, wanted, traffic, use)
        if request:
            self._requests[run] = self._pool.submit(self._send, request)

    def _next_request(
        self, instance: Instance, wanted: list[WantedAdapter], traffic: GatewayReports, use: AdapterUse
    ) -> Callable[[], AdapterAnswer] | None:
        """The next request to send. None if nothing is to be done, or gateways still use what is leaving."""
        routes, socket = registry.get(instance.model.framework).adapter_routes, folders.socket_of(instance.pk)
        if routes is None:  # its engine was started with adapters, and was replaced in the settings since
            return None
        for version, entry in instance.adapters.items():
            if entry["state"] == LEAVING and traffic.is_adapter_drained(
                instance.pk, version, datetime.fromisoformat(entry["since"])
            ):
                return partial(unload, socket, routes.unload, version)
        if found := version_to_load(instance.adapters, wanted, instance.adapter_slots, use):
            return partial(load, socket, routes.load, found)
        return None

    def _send(self, request: Callable[[], AdapterAnswer]) -> AdapterAnswer | None:
        """None if the engine did not answer: the request is repeated."""
        try:
            return request()
        except (OSError, http.client.HTTPException) as error:
            logger.warning("an engine did not answer for an adapter: %s", type(error).__name__)
            return None
        finally:
            self._on_change()


def load(socket: Path, route: str, version: WantedAdapter) -> AdapterAnswer:
    """An adapter that is already loaded counts as loaded: an agent may have ended before it recorded that."""
    status, text = _post(socket, route, {"lora_name": version.id, "lora_path": str(version.folder)})
    reason = _reason(text)
    if status == 200 or ALREADY_LOADED in reason:
        return AdapterAnswer(version.id, {"state": LOADED})
    logger.warning("an engine refused adapter version %s: %s", version.id, reason)
    return AdapterAnswer(version.id, {"state": REFUSED, "reason": reason})


def unload(socket: Path, route: str, version: str) -> AdapterAnswer:
    """Every answer counts as success: the engine has no such adapter afterwards."""
    _post(socket, route, {"lora_name": version})
    return AdapterAnswer(version, None)


def _post(socket: Path, route: str, body: dict[str, str]) -> tuple[int, str]:
    connection = UnixConnection(socket, LOAD_TIMEOUT)
    try:
        connection.request("POST", route, json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, response.read(64 * 1024).decode(errors="replace")
    finally:
        connection.close()


def _reason(text: str) -> str:
    """The engine's own message, without this machine's paths."""
    try:
        text = str(json.loads(text)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        text = text.strip()
    short = PATH_PATTERN.sub(lambda path: path[0].rpartition("/")[2], text.removeprefix(ERROR_PREFIX))
    return short[:MAX_REASON_LENGTH]


def _takes_adapters(instance: Instance) -> bool:
    return instance.state == InstanceState.READY and instance.desired == Desired.RUNNING and instance.adapter_slots > 0


def _wanted_by_model(model_ids: set[str], waited_for: set[str]) -> dict[str, list[WantedAdapter]]:
    """Base model → the current versions, those on trial and those waited for, newest first.

    A request that already waits for a version gets it, even if another version is current by now.
    """
    usable = Q(published_at=None) | Q(pk=F("adapter__current")) | Q(pk__in=waited_for)
    rows = AdapterVersion.objects.filter(usable, adapter__base_model__in=model_ids).order_by("-created_at", "pk")
    found: dict[str, list[WantedAdapter]] = {}
    for version in rows.select_related("tenant", "adapter"):
        wanted = WantedAdapter(version.pk, files.folder_of(version), published=version.published_at is not None)
        found.setdefault(version.adapter.base_model_id, []).append(wanted)
    return found


def _apply_answer(
    before: KnownAdapters, sent: Future[AdapterAnswer | None] | None, wanted: list[WantedAdapter]
) -> KnownAdapters:
    """The known adapters after an engine's answer. A refusal is dropped once its version is no longer wanted."""
    known = dict(before)
    answer = sent.result() if sent else None
    if answer and answer.known:
        known[answer.version] = answer.known
    elif answer:
        known.pop(answer.version, None)
    ids = {version.id for version in wanted}
    return {version: entry for version, entry in known.items() if entry["state"] != REFUSED or version in ids}


def _save_known(instance: Instance, known: KnownAdapters, fence: int) -> bool:
    """Guarded like every state change: only by the newest agent, only for the run that it has observed."""
    run = {"state": InstanceState.READY, "running_generation": instance.running_generation}
    if not Instance.objects.filter(pk=instance.pk, node__fence=fence, **run).update(adapters=known):
        return False
    instance.adapters = known
    return True


def _database_now() -> datetime:
    """The database's clock, on which gateways write their heartbeats."""
    now: datetime = Instance.objects.values_list(Now(), flat=True)[0]
    return now
