"""Workloads of an agent other than instances. Apps above register them, so that imports keep one direction."""

from abc import abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from inference.models import Node
from node_agent.device_memory import DeviceMemory
from node_agent.log_shipper import LogSource
from node_agent.schedule import Schedule


@dataclass(frozen=True)
class NodeContext:
    """What an agent gives to each of its workloads. `node` is this machine's row with the agent's fence."""

    node: Node
    cluster: str  # the cluster's id, a marker of all its processes
    memory: DeviceMemory
    schedule: Schedule
    wake: Callable[[], None]  # asks for the next tick at once, from any thread


class Workload(Protocol):
    """Process trees of one kind on this node, each under a shim and named by the id of its row.

    Before a start it calls `DeviceMemory.may_start`, and it records with `memory_ledger.record_use` how its claim is
    used: all workloads share the rule of one start per device at a time. One object per agent, for its thread only.
    """

    @abstractmethod
    def reconcile(self) -> None:
        """Check all process trees and act on what is found; called in each of the agent's ticks. Never blocks."""

    @abstractmethod
    def active(self) -> set[str]:
        """Ids whose processes and files nothing else may touch."""

    @abstractmethod
    def ended(self, found: Iterable[str]) -> set[str]:
        """Ids of `found` whose rows say that none of their processes may run here any more."""

    @abstractmethod
    def log_sources(self, *, recent: bool) -> list[LogSource]:
        """The logs to ship: of active ids; with `recent`, of all ids whose files may still exist here."""


WorkloadFactory = Callable[[NodeContext], Workload]
_factories: list[WorkloadFactory] = []
_tables: set[str] = set()


def register(factory: WorkloadFactory, table: str) -> None:
    """A change of `table` (core/notify.py) wakes the agent at once."""
    _factories.append(factory)
    _tables.add(table)


def factories() -> list[WorkloadFactory]:
    return _factories


def watched_tables() -> set[str]:
    return _tables
