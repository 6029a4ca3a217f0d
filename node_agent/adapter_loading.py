"""Adapters in running engines: which shall be loaded, and the questions to the engines that make it so.

An engine forgets its adapters when it ends, so what it has loaded is written on its instance's row, for this run only.
Whatever is let go of is first marked, so that gateways send nothing more, and unloaded when all have let go of it.
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
from pathlib import Path

from django.db.models import F, Q
from django.db.models.functions import Now

from engines import registry
from inference.instances.adapters import LEAVING, LOADED, REFUSED
from inference.instances.gateway_reports import AdapterUse, Traffic
from inference.models import Desired, Instance, State
from models_app.adapters import files
from models_app.models import AdapterVersion
from node_agent import folders
from node_agent.probes import UnixConnection

logger = logging.getLogger(__name__)

LOAD_SECONDS = 120.0
LONGEST_REASON = 300
PATH = re.compile(r"(?:/[\w.@-]+){2,}")
FOREWORD = "Call to add_lora method failed: "
ALREADY = "already been loaded"

Known = dict[str, dict]  # version → what is known of it on one run
Run = tuple[str, int]


@dataclass(frozen=True)
class Wanted:
    """A version that somebody may ask for: the whole tenant if it is published, else its maker."""

    id: str
    folder: Path
    published: bool = True


@dataclass(frozen=True)
class Answer:
    """What came of a question to an engine; `known` of None: it has forgotten the version."""

    version: str
    known: dict | None


def to_leave(known: Known, wanted: Iterable[Wanted], slots: int, use: AdapterUse) -> list[str]:
    """Loaded versions to let go of: those not wanted, and the least recently used for those that are waited for."""
    ids = {version.id for version in wanted}
    loaded = [version for version, word in known.items() if word["state"] == LOADED]
    unwanted = [version for version in loaded if version not in ids]
    waited_for = len((use.waiting & ids) - known.keys())
    lacking = len(loaded) - len(unwanted) + waited_for - slots
    idle = [version for version in loaded if version in ids and version not in use.busy | use.waiting]
    idle.sort(key=lambda version: use.idle.get(version, math.inf), reverse=True)
    return unwanted + idle[: max(0, lacking)]


def to_load(known: Known, wanted: Iterable[Wanted], slots: int, use: AdapterUse) -> Wanted | None:
    """The next one, if there is a slot: those that are waited for go first, then published ones, then trials."""
    if sum(word["state"] != REFUSED for word in known.values()) >= slots:
        return None
    missing = [version for version in wanted if version.id not in known]
    return min(missing, key=lambda version: (version.id not in use.waiting, not version.published), default=None)


class Adapters:
    """Brings each engine, one question at a time, to what is wanted of it. `on_change` is called from a thread."""

    def __init__(self, on_change: Callable[[], None], threads: int = 4):
        self._on_change = on_change
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="adapters")
        self._asked: dict[Run, Future[Answer | None]] = {}

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def work(self, instances: list[Instance], traffic: Traffic, fence: int) -> None:
        taking = [each for each in instances if _takes_adapters(each)]
        runs = {(each.pk, each.running_generation) for each in taking}
        self._asked = {run: future for run, future in self._asked.items() if run in runs}
        wanted = _wanted({each.model_id for each in taking}, traffic.adapters_waited_for()) if taking else {}
        for instance in taking:
            self._look_after(instance, wanted.get(instance.model_id, []), traffic, fence)

    def _look_after(self, instance: Instance, wanted: list[Wanted], traffic: Traffic, fence: int) -> None:
        run = (instance.pk, instance.running_generation)
        if run in self._asked and not self._asked[run].done():
            return
        known = _after(instance.adapters, self._asked.pop(run, None), wanted)
        use = traffic.adapter_use(instance.pk)
        leaving = to_leave(known, wanted, instance.adapter_slots, use)
        known |= {version: {"state": LEAVING, "since": _now().isoformat()} for version in leaving}
        if known != instance.adapters and not _write(instance, known, fence):
            return
        question = self._question(instance, wanted, traffic, use)
        if question:
            self._asked[run] = self._pool.submit(self._ask, question)

    def _question(self, instance: Instance, wanted: list[Wanted], traffic: Traffic, use: AdapterUse):
        """The one to put next; None where everything is as it should be, or gateways have yet to let go."""
        routes, socket = registry.get(instance.model.framework).adapter_routes, folders.socket_of(instance.pk)
        for version, word in instance.adapters.items():
            if word["state"] == LEAVING and traffic.let_go(instance.pk, version, datetime.fromisoformat(word["since"])):
                return lambda: unload(socket, routes.unload, version)
        if version := to_load(instance.adapters, wanted, instance.adapter_slots, use):
            return lambda: load(socket, routes.load, version)
        return None

    def _ask(self, question: Callable[[], Answer]) -> Answer | None:
        """None where the engine did not answer: it is asked again."""
        try:
            return question()
        except (OSError, http.client.HTTPException) as error:
            logger.warning("an engine did not answer for an adapter: %s", type(error).__name__)
            return None
        finally:
            self._on_change()


def load(socket: Path, route: str, version: Wanted) -> Answer:
    """One that was loaded already, by an agent that has not lived to write it down, is as good."""
    status, text = _post(socket, route, {"lora_name": version.id, "lora_path": str(version.folder)})
    reason = _reason(text)
    if status == 200 or ALREADY in reason:
        return Answer(version.id, {"state": LOADED})
    logger.warning("an engine refused adapter version %s: %s", version.id, reason)
    return Answer(version.id, {"state": REFUSED, "reason": reason})


def unload(socket: Path, route: str, version: str) -> Answer:
    """Whatever it says: it had it, or has it no more."""
    _post(socket, route, {"lora_name": version})
    return Answer(version, None)


def _post(socket: Path, route: str, body: dict) -> tuple[int, str]:
    connection = UnixConnection(socket, LOAD_SECONDS)
    try:
        connection.request("POST", route, json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, response.read(64 * 1024).decode(errors="replace")
    finally:
        connection.close()


def _reason(text: str) -> str:
    """The engine's own words, without where files lie on this machine."""
    try:
        text = str(json.loads(text)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        text = text.strip()
    short = PATH.sub(lambda path: path[0].rpartition("/")[2], text.removeprefix(FOREWORD))
    return short[:LONGEST_REASON]


def _takes_adapters(instance: Instance) -> bool:
    return instance.state == State.READY and instance.desired == Desired.RUNNING and instance.adapter_slots > 0


def _wanted(model_ids: set[str], waited_for: set[str]) -> dict[str, list[Wanted]]:
    """Base model → the versions in use and those on trial, the newest first.

    A request that has begun to wait for a version gets it, even if another one is in use by now.
    """
    answering = Q(published_at=None) | Q(pk=F("adapter__current")) | Q(pk__in=waited_for)
    rows = AdapterVersion.objects.filter(answering, adapter__base_model__in=model_ids).order_by("-created_at", "pk")
    found: dict[str, list[Wanted]] = {}
    for version in rows.select_related("tenant", "adapter"):
        wanted = Wanted(version.pk, files.folder_of(version), published=version.published_at is not None)
        found.setdefault(version.adapter.base_model_id, []).append(wanted)
    return found


def _after(before: Known, asked: Future[Answer | None] | None, wanted: list[Wanted]) -> Known:
    """What is known with an engine's answer; a refusal is forgotten with what was refused."""
    known = dict(before)
    answer = asked.result() if asked else None
    if answer and answer.known:
        known[answer.version] = answer.known
    elif answer:
        known.pop(answer.version, None)
    ids = {version.id for version in wanted}
    return {version: word for version, word in known.items() if word["state"] != REFUSED or version in ids}


def _write(instance: Instance, known: Known, fence: int) -> bool:
    """As every move of an instance: by the newest agent, for the run that it has looked at."""
    run = {"state": State.READY, "running_generation": instance.running_generation}
    if not Instance.objects.filter(pk=instance.pk, node__fence=fence, **run).update(adapters=known):
        return False
    instance.adapters = known
    return True


def _now() -> datetime:
    """The database's clock, to which gateways hold their beats."""
    return Instance.objects.values_list(Now(), flat=True)[0]
