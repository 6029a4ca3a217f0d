"""What an agent looks after besides instances. Apps above register it, so that imports keep running one way."""

from collections.abc import Callable, Iterable
from typing import Protocol

from inference.models import Node
from node_agent.device_memory import Memory
from node_agent.log_shipper import Source


class FurtherWork(Protocol):
    """Process trees of one kind on this node, each under a shim and named by the id of its row.

    Whoever starts one asks `Memory.may_start` first and tells by `ledger.note` what it does with its claim: one start
    per device at a time holds for all. One object per agent; it is used from the agent's thread only.
    """

    def look(self) -> None:
        """One look at everything, and what follows from it; in each of the agent's ticks. Waits for nobody."""

    def active(self) -> set[str]:
        """Ids whose processes and files are to be left alone by everybody else."""

    def ended(self, found: Iterable[str]) -> set[str]:
        """Those of `found` whose rows say that nothing of them may run here any more."""

    def log_sources(self, *, recent: bool) -> list[Source]:
        """Whose lines are to be shipped: of the active ones, with `recent` of all whose files may still be here."""


Maker = Callable[[Node, str, Memory], FurtherWork]  # this machine's row with its fence, the cluster's id, its memory
_makers: list[Maker] = []
_tables: set[str] = set()


def register(make: Maker, table: str) -> None:
    """`table` is the one whose changes (core/notify.py) are worth a look at once."""
    _makers.append(make)
    _tables.add(table)


def makers() -> list[Maker]:
    return _makers


def tables() -> set[str]:
    return _tables
