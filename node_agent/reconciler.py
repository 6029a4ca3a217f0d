"""One reconciler for every workload: it brings the process trees of this node to what their rows ask for.

In each tick of the agent a reconciler reads the rows of its workload. For each row it observes the process tree,
decides the one next step and calls the handler of that step:

    rows() -> observe(row, ...) -> decide(observation) -> handlers()[step](observation)

What all workloads share is here: the lease of a running tree, the launch and its failures, the end of a tree, crashes
and the pause before the next start, the release of memory, and what to do with a row that cannot be handled.

To add a workload, in an app above this one:

1. Give its row a tenant, a node, `state`, `generation` (the run that is wanted) and `running_generation` (the run that
   was started last). Once a row is placed, only this node's agent writes its state, and only through `owned_row`: a
   newer agent has a newer fence, and then nothing is written.
2. Write its facts (a frozen dataclass of what is observed besides the process tree), its steps (an Enum with the member
   WAIT) and `decide(observation)`: a pure function, with a table of cases as its test. See
   node_agent/instance_lifecycle.py and training/runner/job_lifecycle.py.
3. Subclass `Reconciler`. `handlers` names one handler for each step but WAIT: one of this class, or an own method. A
   handler takes the observation and nothing else. `once_released(handler)` waits for the memory of the ended tree.
4. Register the subclass in `AppConfig.ready`: extra_workloads.register(OwnReconciler, table="its_table").
"""

import logging
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Generic, TypeVar

from django.db import DatabaseError, DataError, IntegrityError, InterfaceError, transaction
from django.db.models import Model, QuerySet

from core import logs
from core.errors import PlatformError
from engines.base import LaunchCommand
from inference import memory_ledger
from inference.crashes.dossiers import CrashDiagnosis
from inference.models import Node
from node_agent import folders, process_tree, shims
from node_agent.extra_workloads import NodeContext, Workload
from node_agent.process_tree import ProcessStatus, RunKey
from node_agent.shims import ShimState

logger = logging.getLogger(__name__)

KILL_SLACK = 10  # seconds that a shim gets after the tree's own grace period
START_ERRORS = (PlatformError, OSError, shims.LaunchFailed)
StartError = PlatformError | OSError | shims.LaunchFailed


@dataclass(frozen=True)
class RowIdentity:
    """A row that asks for a process tree, as it was read. `generation` is the number of the run started last."""

    owner: str  # its id
    tenant: str
    state: str
    generation: int

    @property
    def run(self) -> RunKey:
        return self.owner, self.generation


ModelT = TypeVar("ModelT", bound=Model)
RowT = TypeVar("RowT")
StateT = TypeVar("StateT", bound=str)
FactsT = TypeVar("FactsT")
StepT = TypeVar("StepT", bound=Enum)


@dataclass(frozen=True)
class Observation(Generic[RowT, FactsT]):
    """One row and what was observed of it in one tick: all that a decider and a handler get."""

    row: RowT
    process: ProcessStatus
    shim: ShimState | None  # of the observed run; None if there is no trace of one
    facts: FactsT


Handler = Callable[[Observation[RowT, FactsT]], None]


@dataclass(frozen=True)
class StopRequest:
    """`at` is of the monotonic clock; a forced stop gives the tree no time."""

    at: float
    forced: bool


def owned_row(rows: QuerySet[ModelT], row: RowIdentity, node: Node) -> QuerySet[ModelT]:
    """Of `rows` the one row, if it is still as it was read and no newer agent owns the node."""
    return rows.filter(
        pk=row.owner, state=row.state, running_generation=row.generation, node=node, node__fence=node.fence
    )


class Reconciler(Workload, Generic[RowT, StateT, FactsT, StepT]):
    """The reconciler of one workload. One object per agent, for its thread only."""

    log_level = logging.INFO  # of the steps

    def __init__(self, context: NodeContext) -> None:
        self.context = context
        self._known: set[str] = set()  # ids of the last tick
        self._stops: dict[RunKey, StopRequest] = {}
        self._errors: dict[str, str] = {}  # by id of the row: its last error, so that it is logged only once

    # --- what a workload defines

    @abstractmethod
    def rows(self) -> list[RowT]:
        """The rows whose process trees may run on this node, in the order in which they are handled."""

    @abstractmethod
    def identify(self, row: RowT) -> RowIdentity:
        """Its id, tenant, state and running generation."""

    @abstractmethod
    def expected_generation(self, row: RowT) -> int | None:
        """The run that the row is about; None if a trace of any run counts."""

    @abstractmethod
    def observe(self, row: RowT, process: ProcessStatus, shim: ShimState | None) -> FactsT:
        """What there is to know besides the process tree."""

    @abstractmethod
    def decide(self, seen: Observation[RowT, FactsT]) -> StepT:
        """The one next step: a pure function."""

    @abstractmethod
    def handlers(self) -> Mapping[StepT, Handler[RowT, FactsT]]:
        """The handler of each step; a step without one is the wait."""

    @abstractmethod
    def start(self, seen: Observation[RowT, FactsT]) -> None:
        """Start the next run, with `start_tree`. May raise START_ERRORS, which fail the row."""

    @abstractmethod
    def move(self, row: RowT, state: StateT, **fields: object) -> bool:
        """Change the row's state: one conditional UPDATE on `owned_row`. False if it changed nothing."""

    @abstractmethod
    def diagnose(self, seen: Observation[RowT, FactsT]) -> CrashDiagnosis:
        """Why the run has ended."""

    @abstractmethod
    def diagnose_error(self, error: StartError) -> CrashDiagnosis:
        """Why the run could not be started."""

    @abstractmethod
    def record_failure(self, row: RowT, diagnosis: CrashDiagnosis, **fields: object) -> None:
        """Set the final state of a row that failed, with `close`."""

    @property
    @abstractmethod
    def crash_delays(self) -> tuple[float, ...]:
        """Seconds before the start after the first, second, ... crash in a row; one crash more is a failure."""

    @abstractmethod
    def count_crashes(self, row: RowT) -> int:
        """Crashes in a row, this one included."""

    @abstractmethod
    def retry(self, row: RowT, diagnosis: CrashDiagnosis, crashes: int, delay: float) -> None:
        """Ask for the next run, `delay` seconds from now."""

    @abstractmethod
    def give_up(self, row: RowT, diagnosis: CrashDiagnosis, crashes: int) -> None:
        """Fail the row, which has crashed too often."""

    @property
    @abstractmethod
    def stop_grace(self) -> float:
        """Seconds that a tree gets to end after a stop request."""

    def is_stop_forced(self, row: RowT) -> bool:
        """Whether the tree gets no time to end."""
        return False

    def is_final(self, diagnosis: CrashDiagnosis) -> bool:
        """Whether a crash with this diagnosis is a failure at once."""
        return False

    def label(self, row: RowT) -> str:
        """The row's name in log lines."""
        return self.identify(row).owner

    def forget(self, owner: str) -> None:
        """Drop what is remembered of a row that is no longer among `rows`."""

    # --- the loop

    def reconcile(self) -> None:
        self.reconcile_rows()

    def reconcile_rows(self) -> list[RowT]:
        """Handle all rows, and return them."""
        rows = self.rows()
        found = [self.identify(row) for row in rows]
        for row, identity in zip(rows, found, strict=True):
            with logs.bound(tenant=identity.tenant, instance=identity.owner):
                self._reconcile_or_report(row, identity)
        self._forget_others({identity.owner for identity in found})
        return rows

    def _reconcile_or_report(self, row: RowT, identity: RowIdentity) -> None:
        """One row that cannot be handled must not stop the others; a database that is away stops them all."""
        try:
            self._reconcile(row, identity)
            self._errors.pop(identity.owner, None)
        except Exception as error:
            if _is_database_away(error):
                raise
            text = f"{type(error).__name__}: {error}"
            if self._errors.get(identity.owner) != text:
                logger.exception("%s cannot be reconciled; the next tick tries again", identity.owner)
            self._errors[identity.owner] = text

    def _reconcile(self, row: RowT, identity: RowIdentity) -> None:
        process, shim = process_tree.observe_run(identity.owner, self.expected_generation(row))
        if process == ProcessStatus.RUNNING:
            shims.renew_lease(folders.folder_of(identity.owner))
        seen = Observation(row, process, shim, self.observe(row, process, shim))
        step = self.decide(seen)
        if handle := self.handlers().get(step):
            logger.log(self.log_level, "%s (%s): %s", self.label(row), identity.state, step.value)
            handle(seen)

    def _forget_others(self, present: set[str]) -> None:
        for owner in self._known - present:
            self.forget(owner)
        self._known = present
        self._errors = {owner: text for owner, text in self._errors.items() if owner in present}
        self._stops = {run: stop for run, stop in self._stops.items() if run[0] in present}

    # --- handlers of all workloads

    def launch(self, seen: Observation[RowT, FactsT]) -> None:
        try:
            self.start(seen)
        except START_ERRORS as error:
            self.fail(seen.row, self.diagnose_error(error))

    def end_tree(self, seen: Observation[RowT, FactsT]) -> None:
        """Ask the shim, once more if the stop is now forced; kill a tree that outlives its grace without the shim."""
        assert seen.shim, "only a running tree is ended"
        run, forced = self.identify(seen.row).run, self.is_stop_forced(seen.row)
        stop = self._stops.get(run)
        if stop is None or forced and not stop.forced:
            shims.request_stop(folders.folder_of(run[0]), seen.shim, 0 if forced else self.stop_grace)
            self._stops[run] = StopRequest(time.monotonic(), forced)
        elif time.monotonic() - stop.at > self.stop_grace + KILL_SLACK:
            self.sweep(seen)

    def sweep(self, seen: Observation[RowT, FactsT]) -> None:
        """Kill processes that are left without a shim."""
        process_tree.kill_leftovers(self.identify(seen.row).owner, self.context.cluster)

    def handle_crash(self, seen: Observation[RowT, FactsT]) -> None:
        """Start it again after a growing pause, and fail it after too many crashes in a row."""
        row, delays = seen.row, self.crash_delays
        diagnosis, crashes = self.diagnose(seen), self.count_crashes(row)
        logger.warning("%s crashed, %d in a row: %s", self.label(row), crashes, diagnosis.reason)
        self.expect_release(row)
        if self.is_final(diagnosis):
            self.fail(row, diagnosis)
        elif crashes > len(delays):
            self.give_up(row, diagnosis, crashes)
        else:
            self.retry(row, diagnosis, crashes, delays[crashes - 1])

    def handle_failure(self, seen: Observation[RowT, FactsT]) -> None:
        self.fail(seen.row, self.diagnose(seen))

    def once_released(self, handle: Handler[RowT, FactsT]) -> Handler[RowT, FactsT]:
        """The handler, which acts only once the memory of the ended tree is free: users may rely on that."""

        def act(seen: Observation[RowT, FactsT]) -> None:
            if self.context.memory.is_released(*self.identify(seen.row).run):
                handle(seen)

        return act

    # --- for the handlers of a workload

    def start_tree(self, row: RowT, command: LaunchCommand, cwd: Path | None = None) -> ShimState:
        """Start the row's run under a shim. Raises OSError or LaunchFailed."""
        owner, generation = self.identify(row).run
        return process_tree.launch(owner, generation, command, self.context.cluster, cwd=cwd, grace=self.stop_grace)

    def fail(self, row: RowT, diagnosis: CrashDiagnosis, **fields: object) -> None:
        logger.warning("%s failed: %s", self.label(row), diagnosis.reason)
        self.expect_release(row)
        self.record_failure(row, diagnosis, **fields)

    def expect_release(self, row: RowT) -> None:
        """The tree has ended: its devices must now release its memory."""
        self.context.memory.expect_release(*self.identify(row).run)

    def close(
        self, row: RowT, state: StateT, before_release: Callable[[], None] = lambda: None, /, **fields: object
    ) -> bool:
        """Set the final state of a row whose tree has ended, and release its claim. False if the row has changed.

        `before_release` is slow work in the same transaction; it runs first, since the ledger's lock blocks all others.
        """
        with transaction.atomic():
            if not self.move(row, state, pid=None, **fields):
                return False
            before_release()
            memory_ledger.release(self.identify(row).owner)
        return True


def _is_database_away(error: Exception) -> bool:
    """A database that refuses one row's values is not away."""
    return isinstance(error, DatabaseError | InterfaceError) and not isinstance(error, DataError | IntegrityError)
