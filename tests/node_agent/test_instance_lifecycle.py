"""What an agent does next, as a table: each row is one look at one instance."""

import pytest

from inference.models import Desired, Instance, InstanceState
from node_agent.instance_lifecycle import (
    ENGINE_DRAIN_TIMEOUT,
    HANG_TIMEOUT,
    InstanceFacts,
    InstanceObservation,
    InstanceStep,
    decide,
)
from node_agent.process_tree import ProcessStatus
from node_agent.shims import ShimState

RUNNING, EXITED, LOST, NONE = ProcessStatus.RUNNING, ProcessStatus.EXITED, ProcessStatus.LOST, ProcessStatus.NONE
WANTED = {"desired": Desired.RUNNING, "generation": 1, "running_generation": 1}
RESTART = {**WANTED, "generation": 2}
STOP = {**WANTED, "desired": Desired.STOPPED}


def step(
    state: InstanceState, wish: dict, process: ProcessStatus, shim: ShimState | None = None, **seen
) -> InstanceStep:
    if process == EXITED and shim is None:
        shim = ShimState(exit_code=1, reason="exit")
    row = {name: seen.pop(name) for name in ("force_stop", "stop_timeout", "healthy_row") if name in seen}
    row["healthy"] = row.pop("healthy_row", True)
    instance = Instance(state=state, start_timeout=300, **{"stop_timeout": 60, **wish, **row})
    return decide(InstanceObservation(instance, process, shim, InstanceFacts(**seen)))


@pytest.mark.parametrize(
    ("wish", "process", "seen", "expected"),
    [
        (WANTED, NONE, {}, InstanceStep.LAUNCH),
        (WANTED, EXITED, {}, InstanceStep.LAUNCH),
        (WANTED, NONE, {"may_launch": False}, InstanceStep.WAIT),
        (WANTED, RUNNING, {}, InstanceStep.SWEEP),
        (WANTED, LOST, {}, InstanceStep.SWEEP),
        (STOP, NONE, {}, InstanceStep.STOPPED),
    ],
)
def test_pending(wish, process, seen, expected):
    assert step(InstanceState.PENDING, wish, process, **seen) == expected


@pytest.mark.parametrize(
    ("wish", "process", "seen", "expected"),
    [
        (WANTED, RUNNING, {}, InstanceStep.WAIT),
        (WANTED, RUNNING, {"healthy": True}, InstanceStep.READY),
        (WANTED, RUNNING, {"in_state_for": 301}, InstanceStep.TIMED_OUT),
        (WANTED, EXITED, {}, InstanceStep.FAILED),
        (WANTED, EXITED, {"shim": ShimState(signal=9)}, InstanceStep.CRASHED),
        (WANTED, EXITED, {"shim": ShimState(signal=9, reason="stop")}, InstanceStep.FAILED),
        (WANTED, NONE, {}, InstanceStep.CRASHED),
        (WANTED, LOST, {}, InstanceStep.SWEEP),
        (STOP, RUNNING, {"healthy": True}, InstanceStep.END),
        (RESTART, RUNNING, {}, InstanceStep.END),
        (STOP, EXITED, {}, InstanceStep.STOPPED),
        (RESTART, EXITED, {}, InstanceStep.AGAIN),
    ],
)
def test_starting(wish, process, seen, expected):
    assert step(InstanceState.STARTING, wish, process, **seen) == expected


@pytest.mark.parametrize(
    ("wish", "process", "seen", "expected"),
    [
        (WANTED, RUNNING, {"healthy": True}, InstanceStep.WAIT),
        (WANTED, RUNNING, {"healthy": False}, InstanceStep.HEALTH),
        (WANTED, RUNNING, {"healthy": True, "healthy_row": False}, InstanceStep.HEALTH),
        (WANTED, RUNNING, {"unhealthy_for": HANG_TIMEOUT + 1}, InstanceStep.END),
        (WANTED, RUNNING, {"idle": 10.0, "idle_timeout": 5}, InstanceStep.UNLOAD),
        (WANTED, RUNNING, {"idle": 10.0, "idle_timeout": 20}, InstanceStep.WAIT),
        (WANTED, RUNNING, {"idle": None, "idle_timeout": 5}, InstanceStep.WAIT),
        (WANTED, RUNNING, {"idle": 10.0, "idle_timeout": 0}, InstanceStep.WAIT),
        (WANTED, EXITED, {}, InstanceStep.CRASHED),
        (WANTED, NONE, {}, InstanceStep.CRASHED),
        (WANTED, LOST, {}, InstanceStep.SWEEP),
        (STOP, RUNNING, {"healthy": True}, InstanceStep.DRAIN),
        (RESTART, RUNNING, {"healthy": True}, InstanceStep.DRAIN),
        (STOP, EXITED, {}, InstanceStep.STOPPED),
        (RESTART, EXITED, {}, InstanceStep.AGAIN),
    ],
)
def test_ready(wish, process, seen, expected):
    assert step(InstanceState.READY, wish, process, **seen) == expected


@pytest.mark.parametrize(
    ("wish", "process", "seen", "expected"),
    [
        (STOP, RUNNING, {"let_go_for": None}, InstanceStep.WAIT),
        (STOP, RUNNING, {"let_go_for": 0.0}, InstanceStep.END),
        (STOP, RUNNING, {"let_go_for": 0.0, "engine_busy": True}, InstanceStep.WAIT),
        (STOP, RUNNING, {"let_go_for": ENGINE_DRAIN_TIMEOUT + 1, "engine_busy": True}, InstanceStep.END),
        (STOP, RUNNING, {"let_go_for": None, "force_stop": True}, InstanceStep.END),
        (STOP, RUNNING, {"let_go_for": None, "in_state_for": 61}, InstanceStep.END),
        (STOP, RUNNING, {"let_go_for": None, "in_state_for": 61, "stop_timeout": 3600}, InstanceStep.WAIT),
        (RESTART, RUNNING, {"let_go_for": 0.0}, InstanceStep.END),
        (STOP, EXITED, {}, InstanceStep.STOPPED),
        (RESTART, EXITED, {}, InstanceStep.AGAIN),
        (WANTED, EXITED, {}, InstanceStep.STOPPED),
        (STOP, LOST, {}, InstanceStep.SWEEP),
    ],
)
def test_draining(wish, process, seen, expected):
    assert step(InstanceState.DRAINING, wish, process, **seen) == expected


@pytest.mark.parametrize("state", [InstanceState.STOPPED, InstanceState.FAILED])
def test_what_has_ended_is_left_alone(state):
    assert step(state, STOP, NONE) == InstanceStep.WAIT
