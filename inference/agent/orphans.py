"""Process trees that no row asks for. Killed only with this cluster's and data folder's marks on them."""

import logging
import time
from pathlib import Path

from django.conf import settings

from inference.agent import folders, processes
from inference.models import ACTIVE_STATES, Instance, Node

logger = logging.getLogger(__name__)

MISSING_FOR = 60.0  # a row must be missing twice, this far apart: a database may be restored or misnamed


class Orphans:
    """Remembers what was missing before. One per agent."""

    def __init__(self, node: Node, cluster: str):
        self._node, self._cluster = node, cluster
        self._missing_since: dict[str, float] = {}

    def sweep(self) -> None:
        found = {process.instance for process in processes.scan(self._cluster, str(settings.DATA_DIR))}
        rows = dict(Instance.objects.on(self._node).filter(pk__in=found).values_list("pk", "state"))
        for instance_id in found:
            if rows.get(instance_id) not in ACTIVE_STATES and self._is_orphan(instance_id, instance_id in rows):
                self._kill(instance_id)
        self._missing_since = {pk: at for pk, at in self._missing_since.items() if pk in found}
        self._tidy()

    def _is_orphan(self, instance_id: str, has_ended_row: bool) -> bool:
        if has_ended_row:
            return True
        first = self._missing_since.setdefault(instance_id, time.monotonic())
        return time.monotonic() - first >= MISSING_FOR

    def _kill(self, instance_id: str) -> None:
        killed = processes.kill_marked(self._cluster, str(settings.DATA_DIR), instance_id)
        if killed:
            logger.warning("agent: killed %d processes of %s, which no row asks for", len(killed), instance_id)

    def _tidy(self) -> None:
        """Folders of runs that ended more than a day ago."""
        active = {
            folders.folder_of(pk).name for pk in Instance.objects.on(self._node).active().values_list("pk", flat=True)
        }
        for folder in folders.runtime_dir().iterdir():
            if folder.name not in active and _age(folder) > 24 * 3600:
                folders.remove(folder)


def _age(folder: Path) -> float:
    return time.time() - folder.stat().st_mtime
