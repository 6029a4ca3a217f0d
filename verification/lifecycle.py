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

    def __init__(self, plan: FaultPlan, cluster: ClusterProcesses, actor: Actor, statistics: PlanStatistics):
        self._plan, self._cluster, self._actor, self._statistics = plan, cluster, actor, statistics
        self._create_lock = threading.Lock()
        self.wrong: list[str] = []

    def run(self) -> None:
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
            done = ACTIONS[step.action](self, step.target)
            self._statistics.done[step.action if done is not False else f"{step.action}: nothing there"] += 1
        except Exception as error:
            refusal = client_error(error)
            if refusal is None:
                self.wrong.append(f"{step} raised {error!r}")
                raise
            self._statistics.refused[f"{step.action}: {refusal.code}"] += 1
        finally:
            connection.close()

    def _models(self) -> list[Model]:
        return list(Model.objects.filter(name__startswith=f"{self._plan.seed}-"))

    def _model(self, target: int) -> Model:
        """Created at its first use, and again after its deletion."""
        number = target % fault_plans.MODELS
        name = f"{self._plan.seed}-{number}"
        with self._create_lock:
            found = Model.objects.filter(name=name).first()
            return found or self._create(name, self._plan.engines[number])

    def _create(self, name: str, engine: str) -> Model:
        fields = {"name": name, "framework": "vllm", "description": engine, "config": {"model_path": "serai-demo"}}
        return catalogue.create(self._actor, fields)[0]

    # --- verbs

    def _start(self, target: int) -> None:
        services.start(self._model(target))

    def _stop(self, target: int) -> None:
        services.stop(self._model(target))

    def _stop_by_force(self, target: int) -> None:
        services.stop(self._model(target), force=True)

    def _restart(self, target: int) -> None:
        services.restart(self._model(target))

    def _scale(self, target: int) -> None:
        catalogue.change(self._actor, self._model(target), {"replicas": 1 + target // fault_plans.MODELS})

    def _delete(self, target: int) -> None:
        catalogue.delete(self._actor, self._model(target), force=True)

    def _kill_engine(self, target: int) -> bool:
        return self._cluster.kill_one_of(self._cluster.engines(), target)

    def _kill_shim(self, target: int) -> bool:
        return self._cluster.kill_one_of(self._cluster.shims(), target)

    def _kill_worker(self, target: int) -> None:
        self._cluster.kill_worker(target)

    def _kill_scheduler(self, _target: int) -> None:
        self._cluster.kill_scheduler()

    def _lose_valkey(self, _target: int) -> None:
        self._cluster.lose_valkey()

    def _end_postgres(self, _target: int) -> None:
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
    cluster, statistics = ClusterProcesses(folder, servers), PlanStatistics()
    begun = time.monotonic()
    try:
        cluster.begin()
        for first in range(0, options.sequences, options.together):
            if time.monotonic() - begun > options.seconds_limit:
                break
            count = min(options.together, options.sequences - first)
            _run_batch([fault_plans.make(options.seed + first + n) for n in range(count)], cluster, tenant, statistics)
            _print_progress(statistics, options.sequences)
    finally:
        cluster.end()
    return _results(statistics, options, time.monotonic() - begun)


def _run_batch(batch: list[FaultPlan], cluster: ClusterProcesses, tenant: Tenant, statistics: PlanStatistics) -> None:
    """Run some plans at the same time; check the invariants after them, and again after the clean-up."""
    actor = Actor(tenant=tenant, role=Role.OWNER, is_operator=True)
    runners = [PlanRunner(plan, cluster, actor, statistics) for plan in batch]
    with ThreadPoolExecutor(len(runners)) as pool:
        list(pool.map(PlanRunner.run, runners))
        wrong = [sentence for player in runners for sentence in player.wrong]
        wrong += _wait_for_recovery(cluster, timezone.now(), batch[0].seed, statistics)
        list(pool.map(PlanRunner.clean_up, runners))
    wrong += [f"after the clean-up: {sentence}" for sentence in _wait_for_recovery(cluster, timezone.now())]
    statistics.sequences += len(batch)
    if wrong:
        statistics.broken.append({"first_seed": batch[0].seed, "plans": list(map(str, batch)), "wrong": wrong})
        print(f"\nBROKEN: {'; '.join(wrong)}\n" + "\n".join(map(str, batch)), file=sys.stderr)


def _wait_for_recovery(
    cluster: ClusterProcesses, last_fault: datetime, seed: int = 0, statistics: PlanStatistics | None = None
) -> list[str]:
    """Wait until all invariants hold. Returns those that are violated at the timeout."""
    begun, last = time.monotonic(), []
    while found := _find_violations(cluster, last_fault):
        if time.monotonic() - begun > RECOVERY_TIMEOUT:
            return found
        last = found
        time.sleep(POLL_INTERVAL)
    seconds = time.monotonic() - begun
    if statistics:
        statistics.recovery_seconds.append(seconds)
    if statistics and seconds > RECOVERY_GOAL:
        statistics.late.append({"first_seed": seed, "seconds": round(seconds, 1), "last": last})
    return []


def _find_violations(cluster: ClusterProcesses, last_fault: datetime) -> list[str]:
    try:
        return checks.find_violations(cluster, last_fault)
    except OperationalError as error:
        connection.close()
        return [f"the database is away: {error}"]


def _print_progress(statistics: PlanStatistics, wanted: int) -> None:
    last = f"{statistics.recovery_seconds[-1]:.1f} s" if statistics.recovery_seconds else "–"
    line = f"{statistics.sequences}/{wanted} sequences, {len(statistics.broken)} broken, last one settled after {last}"
    print(line, file=sys.stderr, flush=True)


def _results(statistics: PlanStatistics, options: argparse.Namespace, seconds: float) -> dict:
    recovery_times = sorted(statistics.recovery_seconds)
    return {
        "seed": options.seed,
        "together": options.together,
        "sequences": statistics.sequences,
        "seconds": round(seconds, 1),
        "steps": dict(sorted(statistics.done.items())),
        "refused": dict(sorted(statistics.refused.items())),
        "settled_seconds": {
            "median": round(recovery_times[len(recovery_times) // 2], 1) if recovery_times else None,
            "p99": round(recovery_times[int(len(recovery_times) * 0.99)], 1) if recovery_times else None,
            "most": round(recovery_times[-1], 1) if recovery_times else None,
            "goal": RECOVERY_GOAL,
            "later_than_goal": sum(value > RECOVERY_GOAL for value in recovery_times),
        },
        "late": statistics.late,
        "broken": statistics.broken,
    }
