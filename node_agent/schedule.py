"""When each periodic task of the agent's thread is next due."""

import time
from enum import Enum


class AgentTask(Enum):
    MEASURE_MEMORY = "measure memory"
    HEARTBEAT = "heartbeat"
    AUTOSTART = "autostart"
    SWEEP_ORPHANS = "sweep orphans"


class Schedule:
    """One per agent, for its thread only. Times are of the monotonic clock."""

    def __init__(self) -> None:
        self._due: dict[AgentTask, float] = {}

    def is_due(self, task: AgentTask, interval: float) -> bool:
        """Whether the task is due now. If so, it counts as done and is next due in `interval` seconds."""
        now = time.monotonic()
        if now < self._due.get(task, 0.0):
            return False
        self._due[task] = now + interval
        return True

    def bring_forward(self, task: AgentTask) -> None:
        """Make the task due at once."""
        self._due.pop(task, None)
