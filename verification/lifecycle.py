"""Random sequences of user actions and faults, and their outcomes: `manage.py verify lifecycle`."""

import argparse
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from django.core.management import call_command
from django.db import OperationalError, connection
from django.utils import timezone
from psycopg.errors import DeadlockDetected

from accounts import services as accounts
from accounts.actor import Actor
from accounts.models import Role, Tenant
from core.errors import PlatformError, as_platform_error
from inference.serving import services
from launcher.temporary_servers import TemporaryServers
from models_app import services as catalogue
from models_app.models import Model
from verification import checks, fault_plans
from verification.cluster_processes import ClusterProcesses
from verification.fault_plans import FaultPlan, FaultStep

RECOVERY_GOAL = 15  # from the last fault until all invariants hold
RECOVERY_TIMEOUT = 90  # seconds after which a violated invariant counts as broken
POLL_INTERVAL = 0.2


@dataclass
class PlanStatistics:
    """Counts and times over all sequences."""

    done: Counter = field(default_factory=Counter)
    refused: Counter = field(default_factory=Counter)
    broken: list[dict] = field(default_factory=list)
    late: list[dict] = field(default_factory=list)
    recovery_seconds: list[float] = field(default_factory=list)
    sequences: int = 0


class PlanRunner:
    """Runs one plan on its own models."""

    def __init__(self, plan: FaultPlan, cluster: ClusterProcesses, actor: Actor, tally: PlanStatistics):
        self._plan, self._cluster, self._actor, self._tally = plan, cluster, actor, tally
        self._create_lock = threading.Lock()
        self.wrong: list[str] = []

    def play(self) -> None:
        """Each step starts at its time, even if the one before still runs: steps overlap."""
        with ThreadPoolExecutor(len(self._plan.steps)) as pool:
            for step in self._plan.steps:
                time.sleep(step.after)
                pool.submit(self._run_step, step)

    def clean_up(self) -> None:
        try:
            for model in self._models():
                catalogue.delete(self._actor, model, force=True)
        finally:
            connection.close()

    def _run_step(self, step: FaultStep) -> None:
        try:
            done = ACTIONS[step.action](self, step.which)
            self._tally.done[step.action if done is not False else f"{step.action}: nothing there"] += 1
        except Exception as error:
            refusal = client_error(error)
            if refusal is None:
                self.wrong.append(f"{step} raised {error!r}")
                raise
            self._tally.refused[f"{step.action}: {refusal.code}"] += 1
        finally:
            connection.close()

    def _models(self) -> list[Model]:
        return list(Model.objects.filter(name__startswith=f"{self._plan.seed}-"))

    def _model(self, which: int) -> Model:
        """Created at its first use, and again after its deletion."""
        number = which % fault_plans.MODELS
        name = f"{self._plan.seed}-{number}"
        with self._create_lock:
            found = Model.objects.filter(name=name).first()
            return found or self._create(name, self._plan.engines[number])

    def _create(self, name: str, engine: str) -> Model:
        fields = {"name": name, "framework": "vllm", "description": engine, "config": {"model_path": "serai-demo"}}
        return catalogue.create(self._actor, fields)[0]

    # --- verbs

    def _start(self, which: int) -> None:
        services.start(self._model(which))

    def _stop(self, which: int) -> None:
        services.stop(self._model(which))

    def _stop_by_force(self, which: int) -> None:
        services.stop(self._model(which), force=True)

    def _restart(self, which: int) -> None:
        services.restart(self._model(which))

    def _scale(self, which: int) -> None:
        catalogue.change(self._actor, self._model(which), {"replicas": 1 + which // fault_plans.MODELS})

    def _delete(self, which: int) -> None:
        catalogue.delete(self._actor, self._model(which), force=True)

    def _kill_engine(self, which: int) -> bool:
        return self._cluster.kill_one_of(self._cluster.engines(), which)

    def _kill_shim(self, which: int) -> bool:
        return self._cluster.kill_one_of(self._cluster.shims(), which)

    def _kill_worker(self, which: int) -> None:
        self._cluster.kill_worker(which)

    def _kill_scheduler(self, _which: int) -> None:
        self._cluster.kill_scheduler()

    def _lose_valkey(self, _which: int) -> None:
        self._cluster.lose_valkey()

    def _end_postgres(self, _which: int) -> None:
        self._cluster.end_postgres()


ACTIONS = {
    "start": PlanRunner._start,
    "stop": PlanRunner._stop,
    "stop by force": PlanRunner._stop_by_force,
    "restart": PlanRunner._restart,
    "scale": PlanRunner._scale,
    "delete": PlanRunner._delete,
    "kill an engine": PlanRunner._kill_engine,
    "kill a shim": PlanRunner._kill_shim,
    "kill a worker": PlanRunner._kill_worker,
    "kill the scheduler": PlanRunner._kill_scheduler,
    "lose Valkey": PlanRunner._lose_valkey,
    "end Postgres": PlanRunner._end_postgres,
}


def client_error(error: Exception) -> PlatformError | None:
    """The error that a client would receive; None for a bug, such as a deadlock."""
    return None if isinstance(error.__cause__, DeadlockDetected) else as_platform_error(error)


def run(folder: Path, servers: TemporaryServers, options: argparse.Namespace) -> dict:
    call_command("migrate", verbosity=0)
    tenant = accounts.create_tenant(slug="verify", name="Verify")
    cluster, tally = ClusterProcesses(folder, servers), PlanStatistics()
    begun = time.monotonic()
    try:
        cluster.begin()
        for first in range(0, options.sequences, options.together):
            if time.monotonic() - begun > options.seconds_limit:
                break
            count = min(options.together, options.sequences - first)
            _run_batch([fault_plans.make(options.seed + first + n) for n in range(count)], cluster, tenant, tally)
            _print_progress(tally, options.sequences)
    finally:
        cluster.end()
    return _results(tally, options, time.monotonic() - begun)


def _run_batch(batch: list[FaultPlan], cluster: ClusterProcesses, tenant: Tenant, tally: PlanStatistics) -> None:
    """Run some plans at the same time; check the invariants after them, and again after the clean-up."""
    actor = Actor(tenant=tenant, role=Role.OWNER, is_operator=True)
    players = [PlanRunner(plan, cluster, actor, tally) for plan in batch]
    with ThreadPoolExecutor(len(players)) as pool:
        list(pool.map(PlanRunner.play, players))
        wrong = [sentence for player in players for sentence in player.wrong]
        wrong += _wait_for_recovery(cluster, timezone.now(), batch[0].seed, tally)
        list(pool.map(PlanRunner.clean_up, players))
    wrong += [f"after the clean-up: {sentence}" for sentence in _wait_for_recovery(cluster, timezone.now())]
    tally.sequences += len(batch)
    if wrong:
        tally.broken.append({"first_seed": batch[0].seed, "plans": list(map(str, batch)), "wrong": wrong})
        print(f"\nBROKEN: {'; '.join(wrong)}\n" + "\n".join(map(str, batch)), file=sys.stderr)


def _wait_for_recovery(
    cluster: ClusterProcesses, last_fault: datetime, seed: int = 0, tally: PlanStatistics | None = None
) -> list[str]:
    """Wait until all invariants hold. Returns those that are violated at the timeout."""
    begun, last = time.monotonic(), []
    while found := _find_violations(cluster, last_fault):
        if time.monotonic() - begun > RECOVERY_TIMEOUT:
            return found
        last = found
        time.sleep(POLL_INTERVAL)
    seconds = time.monotonic() - begun
    if tally:
        tally.recovery_seconds.append(seconds)
    if tally and seconds > RECOVERY_GOAL:
        tally.late.append({"first_seed": seed, "seconds": round(seconds, 1), "last": last})
    return []


def _find_violations(cluster: ClusterProcesses, last_fault: datetime) -> list[str]:
    try:
        return checks.find_violations(cluster, last_fault)
    except OperationalError as error:
        connection.close()
        return [f"the database is away: {error}"]


def _print_progress(tally: PlanStatistics, wanted: int) -> None:
    last = f"{tally.recovery_seconds[-1]:.1f} s" if tally.recovery_seconds else "–"
    line = f"{tally.sequences}/{wanted} sequences, {len(tally.broken)} broken, last one settled after {last}"
    print(line, file=sys.stderr, flush=True)


def _results(tally: PlanStatistics, options: argparse.Namespace, seconds: float) -> dict:
    settled = sorted(tally.recovery_seconds)
    return {
        "seed": options.seed,
        "together": options.together,
        "sequences": tally.sequences,
        "seconds": round(seconds, 1),
        "steps": dict(sorted(tally.done.items())),
        "refused": dict(sorted(tally.refused.items())),
        "settled_seconds": {
            "median": round(settled[len(settled) // 2], 1) if settled else None,
            "p99": round(settled[int(len(settled) * 0.99)], 1) if settled else None,
            "most": round(settled[-1], 1) if settled else None,
            "goal": RECOVERY_GOAL,
            "later_than_goal": sum(value > RECOVERY_GOAL for value in settled),
        },
        "late": tally.late,
        "broken": tally.broken,
    }
