"""The node agent: in each tick it measures memory, beats, and reconciles all workloads of this machine."""

import logging
import threading
from collections.abc import Callable

from django.db import DatabaseError, InterfaceError, close_old_connections

from accounts import configuration
from accounts.models import Installation
from core.periodic import LoopSeverity, Periodic
from inference.models import Node
from node_agent import extra_workloads, node
from node_agent.autostart import Autostart
from node_agent.device_memory import DeviceMemory
from node_agent.extra_workloads import NodeContext, Workload
from node_agent.instance_reconciler import InstanceReconciler
from node_agent.log_shipper import LogShipper
from node_agent.orphans import OrphanReaper
from node_agent.schedule import AgentTask, Schedule

logger = logging.getLogger(__name__)

TICK_INTERVAL = 1.0
HEARTBEAT_INTERVAL = 3.0
MEASURE_INTERVAL = 15.0
AUTOSTART_INTERVAL = 5.0
ORPHAN_INTERVAL = 10.0


class LeaseLost(Exception):
    """Another agent has taken over this node; this one must not write any more."""


class Agent:
    """One per node. `run` returns after `stop`; engines keep running and the next agent adopts them."""

    def __init__(self) -> None:
        self.logs = LogShipper()
        self.session: NodeSession | None = None  # from the first tick that reached the database
        self._loop = Periodic("agent", LoopSeverity.CRITICAL, TICK_INTERVAL)
        self._stopping = threading.Event()
        self._wake = threading.Event()

    @property
    def node(self) -> Node | None:
        """This machine's row; None until it is registered."""
        return self.session.context.node if self.session else None

    def wake(self) -> None:
        self._wake.set()

    def stop(self) -> None:
        self._stopping.set()
        self._wake.set()

    def run(self) -> None:
        self.logs.start()
        while not self._stopping.is_set():
            try:
                with self._loop.turn():
                    self.tick()
            except (DatabaseError, InterfaceError) as error:
                logger.warning("agent: the database is away (%s); engines go on", type(error).__name__)
            except LeaseLost:
                logger.error("agent: another agent has taken over this data folder; this one ends")
                self.stop()
            finally:
                close_old_connections()
            self._wake.wait(TICK_INTERVAL)
            self._wake.clear()
        if self.session:
            self.session.instances.shut_down()
        self.logs.stop()

    def tick(self) -> None:
        """Check everything once and act on it."""
        if self.session is None:
            self.session = NodeSession(self.logs, self.wake)
        self.session.tick()


class NodeSession:
    """The work of an agent on its registered node, under one fence."""

    def __init__(self, logs: LogShipper, wake: Callable[[], None]) -> None:
        registered, is_new = node.register()
        cluster = str(Installation.objects.get().cluster_id)
        self.context = NodeContext(registered, cluster, DeviceMemory(registered), Schedule(), wake)
        self.instances = InstanceReconciler(self.context)
        self.workloads: list[Workload] = [self.instances, *(make(self.context) for make in extra_workloads.factories())]
        self.orphans = OrphanReaper(cluster, self.workloads)
        self._logs = logs
        self._autostart: Autostart | None = None
        if is_new:
            self.instances.reset_after_boot()
            self._autostart = Autostart()
        logger.info("agent: node %s (%s) ready", registered.name, registered.pk)

    def tick(self) -> None:
        is_due = self.context.schedule.is_due
        if is_due(AgentTask.MEASURE_MEMORY, min(MEASURE_INTERVAL, configuration.current().gpu_monitor_interval)):
            self.context.memory.measure()
        if is_due(AgentTask.HEARTBEAT, HEARTBEAT_INTERVAL) or self._engines_changed():
            self._record_heartbeat()
        self._follow_logs()
        for workload in self.workloads:
            workload.reconcile()
        if self._autostart and is_due(AgentTask.AUTOSTART, AUTOSTART_INTERVAL):
            self._autostart.work()
        if is_due(AgentTask.SWEEP_ORPHANS, ORPHAN_INTERVAL):
            self.orphans.sweep()

    def _engines_changed(self) -> bool:
        """A start waits for the row that says that an engine is there, so that row waits for no heartbeat."""
        recorded: dict[str, str] = self.context.node.engines
        return node.engine_problems() != recorded

    def _record_heartbeat(self) -> None:
        if not node.record_heartbeat(self.context.node):
            raise LeaseLost

    def _follow_logs(self) -> None:
        """Ship the logs of active rows, and of all whose files still exist when the shipper needs them."""
        everything = self._logs.wants_all
        sources = [source for workload in self.workloads for source in workload.log_sources(recent=everything)]
        self._logs.set_sources(sources, complete=everything)
