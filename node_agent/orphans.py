"""Process trees that no row asks for. Killed only with this cluster's and data folder's marks on them."""

import logging
import time
from pathlib import Path

from django.conf import settings

from inference.models import Instance, Node
from node_agent import folders, processes
from node_agent.extra_workloads import FurtherWork

logger = logging.getLogger(__name__)

MISSING_FOR = 60.0  # a row must be missing twice, this far apart: a database may be restored or misnamed


class Orphans:
    """Remembers what was missing before. One per agent."""

    def __init__(self, node: Node, cluster: str, further_work: list[FurtherWork]):
        self._node, self._cluster, self._further = node, cluster, further_work
        self._missing_since: dict[str, float] = {}

    def sweep(self) -> None:
        found = {process.instance for process in processes.scan(self._cluster, str(settings.DATA_DIR))}
        wanted, ended = self._wanted(), self._ended(found)
        for owner in found - wanted:
            if self._is_orphan(owner, owner in ended):
                self._kill(owner)
        self._missing_since = {pk: at for pk, at in self._missing_since.items() if pk in found}
        self._tidy(wanted)

    def _wanted(self) -> set[str]:
        instances = Instance.objects.on(self._node).active().values_list("pk", flat=True)
        return set(instances).union(*(work.active() for work in self._further))

    def _ended(self, found: set[str]) -> set[str]:
        """Those whose rows are here and say so."""
        instances = Instance.objects.on(self._node).ended().filter(pk__in=found).values_list("pk", flat=True)
        return set(instances).union(*(work.ended(found) for work in self._further))

    def _is_orphan(self, owner: str, has_ended: bool) -> bool:
        if has_ended:
            return True
        first = self._missing_since.setdefault(owner, time.monotonic())
        return time.monotonic() - first >= MISSING_FOR

    def _kill(self, owner: str) -> None:
        killed = processes.kill_marked(self._cluster, str(settings.DATA_DIR), owner)
        if killed:
            logger.warning("agent: killed %d processes of %s, which no row asks for", len(killed), owner)

    def _tidy(self, wanted: set[str]) -> None:
        """Folders of runs that ended more than a day ago."""
        in_use = {folders.folder_of(owner).name for owner in wanted}
        for folder in folders.runtime_dir().iterdir():
            if folder.name not in in_use and _age(folder) > 24 * 3600:
                folders.remove(folder)


def _age(folder: Path) -> float:
    return time.time() - folder.stat().st_mtime
