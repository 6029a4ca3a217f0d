"""Workloads of an agent other than instances. Apps above register them, so that imports keep one direction."""

from collections.abc import Callable, Iterable
from typing import Protocol

from inference.models import Node
from node_agent.device_memory import DeviceMemory
from node_agent.log_shipper import LogSource


class Workload(Protocol):
    """Process trees of one kind on this node, each under a shim and named by the id of its row.

    Before a start it calls `DeviceMemory.may_start`, and it records with `memory_ledger.record_use` how its claim is
    used: all workloads share the rule of one start per device at a time. One object per agent, for its thread only.
    """

    def reconcile(self) -> None:
        """Check all process trees and act on what is found; called in each of the agent's ticks. Never blocks."""

    def active(self) -> set[str]:
        """Ids whose processes and files nothing else may touch."""

    def ended(self, found: Iterable[str]) -> set[str]:
        """Ids of `found` whose rows say that none of their processes may run here any more."""

    def log_sources(self, *, recent: bool) -> list[LogSource]:
        """The logs to ship: of active ids; with `recent`, of all ids whose files may still exist here."""


# Gets this machine's row with its fence, the cluster's id, and the agent's view of device memory.
WorkloadFactory = Callable[[Node, str, DeviceMemory], Workload]
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
