"""Kills process trees that no row wants: only those with the markers of this cluster and data folder."""

import logging
import time

from django.conf import settings

from node_agent import folders, processes
from node_agent.extra_workloads import Workload

logger = logging.getLogger(__name__)

MISSING_ROW_TIMEOUT = 60.0  # seconds that a row must be missing: a database may be in a restore, or the wrong one


class OrphanReaper:
    """One per agent. Remembers since when each row is missing."""

    def __init__(self, cluster: str, workloads: list[Workload]):
        self._cluster, self._workloads = cluster, workloads
        self._missing_since: dict[str, float] = {}

    def sweep(self) -> None:
        found = {process.instance for process in processes.find_marked(self._cluster, str(settings.DATA_DIR))}
        wanted, ended = self._wanted(), self._ended(found)
        for owner in found - wanted:
            if self._is_orphan(owner, owner in ended):
                self._kill(owner)
        self._missing_since = {pk: at for pk, at in self._missing_since.items() if pk in found}
        self._remove_old_folders(wanted)

    def _wanted(self) -> set[str]:
        return set().union(*(workload.active() for workload in self._workloads))

    def _ended(self, found: set[str]) -> set[str]:
        """Those whose rows exist and have ended."""
        return set().union(*(workload.ended(found) for workload in self._workloads))

    def _is_orphan(self, owner: str, has_ended: bool) -> bool:
        if has_ended:
            return True
        missing_since = self._missing_since.setdefault(owner, time.monotonic())
        return time.monotonic() - missing_since >= MISSING_ROW_TIMEOUT

    def _kill(self, owner: str) -> None:
        killed = processes.kill_marked(self._cluster, str(settings.DATA_DIR), owner)
        if killed:
            logger.warning("agent: killed %d processes of %s, which no row asks for", len(killed), owner)

    def _remove_old_folders(self, wanted: set[str]) -> None:
        """Those of runs that ended more than a day ago."""
        in_use = {folders.folder_of(owner).name for owner in wanted}
        for folder in folders.runtime_dir().iterdir():
            if folder.name not in in_use and time.time() - folder.stat().st_mtime > 24 * 3600:
                folders.remove(folder)
