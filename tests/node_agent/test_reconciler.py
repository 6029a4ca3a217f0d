"""What all workloads share: an invented workload on the generic reconciler, without processes."""

import logging
from dataclasses import dataclass
from enum import Enum, StrEnum

import pytest
from django.db import DataError, OperationalError

from engines.crash_cause import Cause
from inference.crashes.dossiers import CrashDiagnosis
from node_agent import process_tree, reconciler, shims
from node_agent.extra_workloads import NodeContext
from node_agent.instance_reconciler import InstanceReconciler
from node_agent.process_tree import ProcessStatus
from node_agent.reconciler import KILL_SLACK, Observation, Reconciler, RowIdentity
from node_agent.schedule import AgentTask, Schedule
from node_agent.shims import ShimState
from training.runner.runner import TrainingRunner

DIAGNOSIS = CrashDiagnosis(Cause.UNKNOWN, "It fell.")


class WidgetStep(Enum):
    WAIT = "wait"
    POLISH = "polish"
    STOP = "stop"
    END = "end"
    CRASHED = "crashed"


class WidgetState(StrEnum):
    RUNNING = "running"


@dataclass
class Widget:
    pk: str
    step: WidgetStep = WidgetStep.POLISH
    error: Exception | None = None
    crashes: int = 0
    forced: bool = False


class FakeMemory:
    """Memory that is free from the second question on."""

    def __init__(self):
        self.asked: list[tuple[str, int]] = []
        self.expected: list[tuple[str, int]] = []

    def is_released(self, owner: str, generation: int) -> bool:
        self.asked.append((owner, generation))
        return len(self.asked) > 1

    def expect_release(self, owner: str, generation: int) -> None:
        self.expected.append((owner, generation))


class WidgetReconciler(Reconciler[Widget, WidgetState, str, WidgetStep]):
    crash_delays = (0.0, 5.0)
    stop_grace = 3.0

    def __init__(self, *widgets: Widget):
        super().__init__(NodeContext(None, "cluster", FakeMemory(), Schedule(), lambda: None))
        self.widgets, self.done = list(widgets), []

    def active(self):
        return {widget.pk for widget in self.widgets}

    def ended(self, found):
        return set()

    def log_sources(self, *, recent):
        return []

    def rows(self):
        return list(self.widgets)

    def identify(self, row):
        return RowIdentity(row.pk, "tenant", "running", 7)

    def expected_generation(self, row):
        return 7

    def observe(self, row, process, shim):
        if row.error:
            raise row.error
        return "shiny"

    def decide(self, seen):
        return seen.row.step

    def handlers(self):
        return {
            WidgetStep.POLISH: lambda seen: self.done.append((seen.row.pk, seen.facts)),
            WidgetStep.STOP: self.once_released(lambda seen: self.done.append((seen.row.pk, "stopped"))),
            WidgetStep.END: self.end_tree,
            WidgetStep.CRASHED: self.handle_crash,
        }

    def start(self, seen):
        raise OSError("no room")

    def move(self, row, state, **fields):
        return True

    def diagnose(self, seen):
        return DIAGNOSIS

    def diagnose_error(self, error):
        return DIAGNOSIS

    def record_failure(self, row, diagnosis, **fields):
        self.done.append((row.pk, "failed", diagnosis))

    def count_crashes(self, row):
        return row.crashes

    def retry(self, row, diagnosis, crashes, delay):
        self.done.append((row.pk, "retry", delay))

    def give_up(self, row, diagnosis, crashes):
        self.fail(row, diagnosis)

    def is_stop_forced(self, row):
        return row.forced

    def forget(self, owner):
        self.done.append((owner, "forgotten"))


@pytest.fixture(autouse=True)
def trees(monkeypatch, tmp_path) -> dict[str, tuple[ProcessStatus, ShimState | None]]:
    """The trees by owner; without an entry there is none."""
    found: dict[str, tuple[ProcessStatus, ShimState | None]] = {}
    monkeypatch.setattr(process_tree, "observe_run", lambda owner, _run: found.get(owner, (ProcessStatus.NONE, None)))
    monkeypatch.setattr(reconciler.folders, "folder_of", lambda owner: tmp_path / owner)
    monkeypatch.setattr(shims, "renew_lease", lambda folder: None)
    return found


@pytest.mark.parametrize("error", [ValueError("odd"), DataError("a NUL"), KeyError("x")])
def test_a_row_that_cannot_be_handled_does_not_stop_the_others_and_is_logged_once(caplog, error):
    work = WidgetReconciler(Widget("bad", error=error), Widget("good"))
    with caplog.at_level(logging.ERROR):
        work.reconcile()
        work.reconcile()
    assert work.done == [("good", "shiny")] * 2
    assert [record.getMessage() for record in caplog.records] == ["bad cannot be reconciled; the next tick tries again"]
    work.widgets[0].error = None
    work.reconcile()
    assert ("bad", "shiny") in work.done


def test_a_database_that_is_away_ends_the_tick():
    work = WidgetReconciler(Widget("first", error=OperationalError("gone")), Widget("second"))
    with pytest.raises(OperationalError):
        work.reconcile()
    assert work.done == []


def test_a_step_without_a_handler_is_the_wait():
    work = WidgetReconciler(Widget("a", WidgetStep.WAIT))
    work.reconcile()
    assert work.done == []


def test_a_row_that_is_gone_is_forgotten():
    work = WidgetReconciler(Widget("a", WidgetStep.WAIT), Widget("b", WidgetStep.WAIT))
    work.reconcile()
    work.widgets.pop()
    work.reconcile()
    work.reconcile()
    assert work.done == [("b", "forgotten")]


def test_a_handler_waits_for_the_memory_of_the_ended_tree():
    work = WidgetReconciler(Widget("a", WidgetStep.STOP))
    work.reconcile()
    assert work.done == [] and work.context.memory.asked == [("a", 7)]
    work.reconcile()
    assert work.done == [("a", "stopped")]


@pytest.mark.parametrize(
    ("crashes", "outcome"), [(1, ("a", "retry", 0.0)), (2, ("a", "retry", 5.0)), (3, ("a", "failed", DIAGNOSIS))]
)
def test_crashes_are_retried_after_growing_pauses_until_there_are_too_many(crashes, outcome):
    work = WidgetReconciler(Widget("a", WidgetStep.CRASHED, crashes=crashes))
    work.reconcile()
    assert work.done == [outcome]
    assert set(work.context.memory.expected) == {("a", 7)}


def test_an_end_is_asked_for_once_again_when_forced_and_then_enforced(monkeypatch, trees):
    asked, swept, now = [], [], [1000.0]
    monkeypatch.setattr(reconciler.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(shims, "request_stop", lambda _folder, _shim, grace: asked.append(grace))
    monkeypatch.setattr(process_tree, "kill_leftovers", lambda owner, cluster: swept.append((owner, cluster)))
    trees["a"] = ProcessStatus.RUNNING, ShimState(shim_pid=1)
    work = WidgetReconciler(Widget("a", WidgetStep.END))
    work.reconcile()
    work.reconcile()
    assert asked == [3.0]
    work.widgets[0].forced = True
    work.reconcile()
    work.reconcile()
    assert asked == [3.0, 0] and swept == []
    now[0] += 3.0 + KILL_SLACK + 1
    work.reconcile()
    assert asked == [3.0, 0] and swept == [("a", "cluster")]


def test_a_launch_that_fails_fails_its_row():
    work = WidgetReconciler()
    work.launch(Observation(Widget("a"), ProcessStatus.NONE, None, ""))
    assert work.done == [("a", "failed", DIAGNOSIS)] and work.context.memory.expected == [("a", 7)]


@pytest.mark.parametrize("workload", [InstanceReconciler, TrainingRunner])
def test_each_step_but_the_wait_has_a_handler(workload):
    handlers = workload(NodeContext(None, "cluster", FakeMemory(), Schedule(), lambda: None)).handlers()
    (steps,) = {type(step) for step in handlers}
    assert set(handlers) == set(steps) - {steps.WAIT}


def test_a_task_is_due_at_once_and_then_after_its_interval(monkeypatch):
    now = [50.0]
    monkeypatch.setattr("node_agent.schedule.time.monotonic", lambda: now[0])
    schedule = Schedule()
    assert schedule.is_due(AgentTask.HEARTBEAT, 3) and not schedule.is_due(AgentTask.HEARTBEAT, 3)
    assert schedule.is_due(AgentTask.AUTOSTART, 5)
    now[0] += 3
    assert schedule.is_due(AgentTask.HEARTBEAT, 3) and not schedule.is_due(AgentTask.AUTOSTART, 5)
    schedule.bring_forward(AgentTask.AUTOSTART)
    assert schedule.is_due(AgentTask.AUTOSTART, 5)
