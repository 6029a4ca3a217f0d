"""What an agent does next, as a table: each row is one look at one instance."""

import pytest

from inference.models import Desired, Instance, State
from node_agent.decide import ENGINE_PATIENCE, HANG_SECONDS, Process, Seen, Step, decide

RUNNING, EXITED, LOST, NONE = Process.RUNNING, Process.EXITED, Process.LOST, Process.NONE
WANTED = {"desired": Desired.RUNNING, "generation": 1, "running_generation": 1}
RESTART = {**WANTED, "generation": 2}
STOP = {**WANTED, "desired": Desired.STOPPED}


def step(state: State, wish: dict, process: Process, idle_timeout: int = 0, **seen) -> Step:
    row = {name: seen.pop(name) for name in ("force_stop", "stop_timeout", "healthy_row") if name in seen}
    row["healthy"] = row.pop("healthy_row", True)
    instance = Instance(state=state, start_timeout=300, **{"stop_timeout": 60, **wish, **row})
    return decide(instance, Seen(process, **seen), idle_timeout)


@pytest.mark.parametrize(
    ("wish", "process", "seen", "expected"),
    [
        (WANTED, NONE, {}, Step.LAUNCH),
        (WANTED, EXITED, {}, Step.LAUNCH),
        (WANTED, NONE, {"may_launch": False}, Step.WAIT),
        (WANTED, RUNNING, {}, Step.SWEEP),
        (WANTED, LOST, {}, Step.SWEEP),
        (STOP, NONE, {}, Step.STOPPED),
    ],
)
def test_pending(wish, process, seen, expected):
    assert step(State.PENDING, wish, process, **seen) == expected


@pytest.mark.parametrize(
    ("wish", "process", "seen", "expected"),
    [
        (WANTED, RUNNING, {}, Step.WAIT),
        (WANTED, RUNNING, {"healthy": True}, Step.READY),
        (WANTED, RUNNING, {"in_state_for": 301}, Step.TIMED_OUT),
        (WANTED, EXITED, {}, Step.FAILED),
        (WANTED, EXITED, {"killed_by_signal": True}, Step.CRASHED),
        (WANTED, NONE, {}, Step.CRASHED),
        (WANTED, LOST, {}, Step.SWEEP),
        (STOP, RUNNING, {"healthy": True}, Step.END),
        (RESTART, RUNNING, {}, Step.END),
        (STOP, EXITED, {}, Step.STOPPED),
        (RESTART, EXITED, {}, Step.AGAIN),
    ],
)
def test_starting(wish, process, seen, expected):
    assert step(State.STARTING, wish, process, **seen) == expected


@pytest.mark.parametrize(
    ("wish", "process", "seen", "expected"),
    [
        (WANTED, RUNNING, {"healthy": True}, Step.WAIT),
        (WANTED, RUNNING, {"healthy": False}, Step.HEALTH),
        (WANTED, RUNNING, {"healthy": True, "healthy_row": False}, Step.HEALTH),
        (WANTED, RUNNING, {"unhealthy_for": HANG_SECONDS + 1}, Step.END),
        (WANTED, RUNNING, {"idle": 10.0, "idle_timeout": 5}, Step.UNLOAD),
        (WANTED, RUNNING, {"idle": 10.0, "idle_timeout": 20}, Step.WAIT),
        (WANTED, RUNNING, {"idle": None, "idle_timeout": 5}, Step.WAIT),
        (WANTED, RUNNING, {"idle": 10.0, "idle_timeout": 0}, Step.WAIT),
        (WANTED, EXITED, {}, Step.CRASHED),
        (WANTED, NONE, {}, Step.CRASHED),
        (WANTED, LOST, {}, Step.SWEEP),
        (STOP, RUNNING, {"healthy": True}, Step.DRAIN),
        (RESTART, RUNNING, {"healthy": True}, Step.DRAIN),
        (STOP, EXITED, {}, Step.STOPPED),
        (RESTART, EXITED, {}, Step.AGAIN),
    ],
)
def test_ready(wish, process, seen, expected):
    assert step(State.READY, wish, process, **seen) == expected


@pytest.mark.parametrize(
    ("wish", "process", "seen", "expected"),
    [
        (STOP, RUNNING, {"let_go_for": None}, Step.WAIT),
        (STOP, RUNNING, {"let_go_for": 0.0}, Step.END),
        (STOP, RUNNING, {"let_go_for": 0.0, "engine_busy": True}, Step.WAIT),
        (STOP, RUNNING, {"let_go_for": ENGINE_PATIENCE + 1, "engine_busy": True}, Step.END),
        (STOP, RUNNING, {"let_go_for": None, "force_stop": True}, Step.END),
        (STOP, RUNNING, {"let_go_for": None, "in_state_for": 61}, Step.END),
        (STOP, RUNNING, {"let_go_for": None, "in_state_for": 61, "stop_timeout": 3600}, Step.WAIT),
        (RESTART, RUNNING, {"let_go_for": 0.0}, Step.END),
        (STOP, EXITED, {}, Step.STOPPED),
        (RESTART, EXITED, {}, Step.AGAIN),
        (WANTED, EXITED, {}, Step.STOPPED),
        (STOP, LOST, {}, Step.SWEEP),
    ],
)
def test_draining(wish, process, seen, expected):
    assert step(State.DRAINING, wish, process, **seen) == expected


@pytest.mark.parametrize("state", [State.STOPPED, State.FAILED])
def test_what_has_ended_is_left_alone(state):
    assert step(state, STOP, NONE) == Step.WAIT
