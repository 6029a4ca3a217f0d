"""The node agent: reconciles the processes on this machine with the rows, and records what it observes."""

import logging
import threading
import time
from dataclasses import replace
from datetime import timedelta

from django.db import DatabaseError, InterfaceError, close_old_connections, transaction
from django.utils import timezone

from accounts import configuration
from accounts.models import Installation
from core import logs
from core.errors import PlatformError
from core.periodic import LoopSeverity, Periodic
from engines import registry
from inference import memory_ledger
from inference.crashes import dossiers
from inference.crashes.dossiers import CrashDiagnosis
from inference.instances import gateway_reports, transitions
from inference.models import Desired, EngineTokens, Instance, InstanceState, Node, StopReason
from inference.serving import services
from node_agent import extra_workloads, failure_diagnosis, folders, node, process_tree, shims
from node_agent.adapter_loading import AdapterReconciler
from node_agent.autostart import Autostart
from node_agent.decide import KILL_SLACK, MAX_CRASHES, InstanceObservation, InstanceStep, ProcessStatus, decide
from node_agent.device_memory import DeviceMemory
from node_agent.log_shipper import LogShipper, log_source
from node_agent.orphans import OrphanReaper
from node_agent.probes import DRAINING_INTERVAL, METRICS_INTERVAL, STARTING_INTERVAL, Probe, Probes

logger = logging.getLogger(__name__)

TICK_INTERVAL = 1.0
HEARTBEAT_INTERVAL = 3.0
MEASURE_INTERVAL = 15.0
STABLE_AFTER = timedelta(minutes=5)
CRASH_BACKOFF = (0, 2, 5)  # seconds before the first, second, third start after a crash
LOG_RETENTION = timedelta(days=1)
FAILURE_BACKOFF = timedelta(seconds=30)  # requests do not restart a failed model earlier


class LeaseLost(Exception):
    """Another agent has taken over this node; this one must not write any more."""


class Agent:
    """One per node. `run` returns after `stop`; engines keep running and the next agent adopts them."""

    def __init__(self):
        self._loop = Periodic("agent", LoopSeverity.CRITICAL, TICK_INTERVAL)
        self._stopping = threading.Event()
        self._wake = threading.Event()
        self._logs = LogShipper()
        self._probes = Probes(on_change=self.wake)
        self._adapters = AdapterReconciler(on_change=self.wake)
        self._due: dict[str, float] = {}
        self._asked: dict[tuple[str, int], tuple[float, bool]] = {}  # run → when its end was requested, if forced
        self._let_go: dict[tuple[str, int], float] = {}  # run → since when no gateway has used it
        self._node = None
        self._autostart: Autostart | None = None

    @property
    def node(self) -> Node | None:
        """This machine's row; None until it is registered."""
        return self._node

    def wake(self) -> None:
        self._wake.set()

    def stop(self) -> None:
        self._stopping.set()
        self._wake.set()

    def run(self) -> None:
        self._logs.start()
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
        self._probes.close()
        self._adapters.close()
        self._logs.stop()

    def tick(self) -> None:
        """Check everything once and act on it."""
        if self._node is None:
            self._begin()
        if self._every("memory", min(MEASURE_INTERVAL, configuration.current().gpu_monitor_interval)):
            self._memory.measure()
        if self._every("beat", HEARTBEAT_INTERVAL) and not node.record_heartbeat(self._node):
            raise LeaseLost
        seen_traffic = gateway_reports.read_reports()
        active = self._active()
        self._follow_logs(active)
        for instance in active:
            with logs.bound(tenant=instance.tenant_id, instance=instance.pk):
                self._reconcile(instance, seen_traffic)
        for work in self._further:
            work.reconcile()
        self._adapters.reconcile(active, seen_traffic, self._node.fence)
        if self._autostart and self._every("autostart", 5.0):
            self._autostart.work()
        if self._every("orphans", 10.0):
            self._orphans.sweep()

    def _every(self, name: str, seconds: float) -> bool:
        now = time.monotonic()
        if now < self._due.get(name, 0.0):
            return False
        self._due[name] = now + seconds
        return True

    def _begin(self) -> None:
        registered, new_session = node.register()
        self._cluster = str(Installation.objects.get().cluster_id)
        self._memory = DeviceMemory(registered)
        self._further = [make(registered, self._cluster, self._memory) for make in extra_workloads.factories()]
        self._orphans = OrphanReaper(registered, self._cluster, self._further)
        self._node = registered
        if new_session:
            self._after_boot()
            self._autostart = Autostart()
        logger.info("agent: node %s (%s) ready", registered.name, registered.pk)

    def _active(self) -> list[Instance]:
        rows = (
            Instance.objects.on(self._node).active().select_related("model").order_by("-model__priority", "created_at")
        )
        return list(rows)

    def _follow_logs(self, active: list[Instance]) -> None:
        """Ship the logs of active instances, and of all whose files still exist when the shipper needs them."""
        everything = self._logs.wants_all
        recent = Instance.objects.on(self._node).filter(updated_at__gt=timezone.now() - LOG_RETENTION)
        sources = [log_source(instance) for instance in (recent if everything else active)]
        for work in self._further:
            sources += work.log_sources(recent=everything)
        self._logs.set_sources(sources, complete=everything)

    def _after_boot(self) -> None:
        """All engines have ended. Those that requests had started wait for the next request; all others restart."""
        for instance in self._active():
            if self._process(instance)[0] == ProcessStatus.RUNNING:
                continue
            if instance.desired == Desired.STOPPED:
                self._end(instance, InstanceState.STOPPED)
            elif instance.on_demand:
                self._end(instance, InstanceState.STOPPED, desired=Desired.STOPPED, stop_reason=StopReason.RESTARTED)
            else:
                self._move(
                    instance,
                    InstanceState.PENDING,
                    generation=max(instance.generation, instance.running_generation + 1),
                    crashes=0,
                )

    # --- one instance

    def _reconcile(self, instance: Instance, seen_traffic: gateway_reports.GatewayReports) -> None:
        process, state = self._process(instance)
        probe = self._probe(instance) if process == ProcessStatus.RUNNING else Probe()
        if process == ProcessStatus.RUNNING:
            shims.renew_lease(folders.folder_of(instance.pk))
            self._note_readings(instance, probe)
        step = decide(instance, self._seen(instance, process, state, probe, seen_traffic), self._idle_timeout(instance))
        if step != InstanceStep.WAIT:
            logger.info("%s (%s, %s): %s", instance.model.name, instance.pk, instance.state, step.value)
            STEPS[step](self, instance, state, probe)

    def _process(self, instance: Instance) -> tuple[ProcessStatus, shims.ShimState | None]:
        return process_tree.observe_run(
            instance.pk, None if instance.state == InstanceState.PENDING else instance.running_generation
        )

    def _probe(self, instance: Instance) -> Probe:
        """Polled many times a second while the engine starts, so that it is seen as ready without a tick's delay."""
        path = registry.get(instance.model.framework).health_path
        every, metrics_every = configuration.current().health_check_interval, METRICS_INTERVAL
        if instance.state == InstanceState.STARTING:
            every = STARTING_INTERVAL
        elif instance.state == InstanceState.DRAINING:
            metrics_every = DRAINING_INTERVAL
        folder = folders.folder_of(instance.pk)
        return self._probes.poll_run(instance.pk, instance.running_generation, folder, path, every, metrics_every)

    def _seen(
        self, instance, process, state, probe: Probe, seen_traffic: gateway_reports.GatewayReports
    ) -> InstanceObservation:
        in_state_for = (timezone.now() - instance.state_since).total_seconds()
        return InstanceObservation(
            process=process,
            killed_by_signal=bool(state and state.signal and state.reason != "stop"),  # a stop is our own
            healthy=probe.healthy,
            unhealthy_for=probe.unhealthy_for(),
            in_state_for=in_state_for,
            let_go_for=self._let_go_for(instance, seen_traffic),
            engine_busy=probe.busy or probe.healthy is not False and not probe.measured_within(in_state_for),
            idle=seen_traffic.idle_seconds(instance.model_id),
            may_launch=self._may_launch(instance),
        )

    def _let_go_for(self, instance: Instance, seen_traffic: gateway_reports.GatewayReports) -> float | None:
        """Seconds since no gateway uses it any more; None while one does."""
        run = (instance.pk, instance.running_generation)
        if instance.state != InstanceState.DRAINING or not seen_traffic.is_drained(instance):
            self._let_go.pop(run, None)
            return None
        return time.monotonic() - self._let_go.setdefault(run, time.monotonic())

    def _may_launch(self, instance: Instance) -> bool:
        """After its back-off; one start per device at a time; only once the instances it replaces have ended."""
        if instance.retry_at and instance.retry_at > timezone.now():
            return False
        return self._memory.may_start(instance.pk) and not memory_ledger.is_above_limit()

    def _idle_timeout(self, instance: Instance) -> int:
        return 0 if instance.model.pinned else instance.model.idle_timeout

    def _note_readings(self, instance: Instance, probe: Probe) -> None:
        """Record the engine's own counters, to compare with the usage ledger, and whether it is busy."""
        if probe.metrics is None:
            return
        readings = registry.get(instance.model.framework).readings(probe.metrics)
        probe.metrics, probe.busy = None, bool(readings.running or readings.waiting)
        if readings.prompt_tokens is not None and readings.generation_tokens is not None:
            EngineTokens.objects.update_or_create(
                instance=instance,
                generation=instance.running_generation,
                defaults={
                    "prompt_tokens": readings.prompt_tokens,
                    "generation_tokens": readings.generation_tokens,
                },
            )

    # --- steps

    def _move(self, instance: Instance, state: InstanceState, **fields) -> bool:
        return transitions.move(instance, state, fence=self._node.fence, **fields)

    def _launch(self, instance: Instance, _state, _probe) -> None:
        now = timezone.now()
        fields = {
            "running_generation": instance.generation,
            "started_at": now,
            "ready_at": None,
            "pid": None,
            "exit_code": None,
            "exit_signal": None,
            "memory_bytes": None,
            "peak_bytes": None,
            "healthy": False,
            "endpoint": "",
            **process_tree.adapter_fields(instance),
        }
        if not self._move(instance, InstanceState.STARTING, **fields):
            return
        try:
            command = process_tree.command_for(instance)
            started = process_tree.launch(instance.pk, instance.running_generation, command, self._cluster)
        except (PlatformError, OSError, shims.LaunchFailed) as error:
            self._fail(instance, failure_diagnosis.diagnose_start_failure(error))
            return
        Instance.objects.filter(pk=instance.pk).update(pid=started.pid, launch=process_tree.describe_launch(command))

    def _ready(self, instance: Instance, _state, _probe) -> None:
        endpoint = f"unix://{folders.socket_of(instance.pk)}"
        self._move(
            instance,
            InstanceState.READY,
            endpoint=endpoint,
            healthy=True,
            ready_at=timezone.now(),
            failure_reason="",
            failure_cause="",
            log_tail=[],
            retry_at=None,
        )
        self._due["memory"] = 0.0  # measure a new engine soon

    def _health(self, instance: Instance, _state, probe: Probe) -> None:
        Instance.objects.filter(pk=instance.pk).update(healthy=probe.healthy)
        instance.refresh_from_db()
        transitions.publish_status(instance)

    def _drain(self, instance: Instance, _state, _probe) -> None:
        self._move(instance, InstanceState.DRAINING)

    def _unload(self, instance: Instance, _state, _probe) -> None:
        """The model is idle. Its instances on other nodes follow in the next tick of their agents."""
        if services.unload(instance.model):
            self._move(instance, InstanceState.DRAINING)

    def _end_tree(self, instance: Instance, state: shims.ShimState, _probe) -> None:
        """Ask the shim, once more if the stop is now forced; kill a tree that outlives its grace without the shim."""
        run = (instance.pk, instance.running_generation)
        since, was_forced = self._asked.get(run, (None, False))
        if since is None or instance.force_stop and not was_forced:
            grace = 0 if instance.force_stop else process_tree.STOP_GRACE
            shims.request_stop(folders.folder_of(instance.pk), state, grace)
            self._asked[run] = (time.monotonic(), instance.force_stop)
        elif time.monotonic() - since > process_tree.STOP_GRACE + KILL_SLACK:
            self._sweep(instance, state, _probe)

    def _sweep(self, instance: Instance, _state, _probe) -> None:
        process_tree.kill_leftovers(instance.pk, self._cluster)

    def _stopped(self, instance: Instance, state, _probe) -> None:
        """Only once its memory is released: after a stop, clients may rely on that."""
        if self._memory.is_released(instance.pk, instance.running_generation):
            self._end(instance, InstanceState.STOPPED, **_exit_of(state))

    def _again(self, instance: Instance, _state, _probe) -> None:
        self._memory.expect_release(instance.pk, instance.running_generation)
        self._move(
            instance, InstanceState.PENDING, crashes=0, force_stop=False, retry_at=None, endpoint="", healthy=False
        )

    def _crashed(self, instance: Instance, state, _probe) -> None:
        self._memory.expect_release(instance.pk, instance.running_generation)
        finding = failure_diagnosis.diagnose_end(instance, state)
        stable = instance.ready_at and timezone.now() - instance.ready_at > STABLE_AFTER
        crashes = 1 if stable else instance.crashes + 1
        if crashes > MAX_CRASHES:
            self._fail(instance, replace(finding, reason=f"It crashed {crashes} times in a row. {finding.reason}"))
            return
        dossiers.save_dossier(instance, finding)
        retry_at = timezone.now() + timedelta(seconds=CRASH_BACKOFF[crashes - 1])
        self._move(
            instance,
            InstanceState.PENDING,
            generation=instance.running_generation + 1,
            crashes=crashes,
            retry_at=retry_at,
            healthy=False,
            endpoint="",
            **finding.instance_fields,
        )

    def _failed(self, instance: Instance, state, _probe) -> None:
        self._fail(instance, failure_diagnosis.diagnose_end(instance, state))

    def _fail(self, instance: Instance, finding: CrashDiagnosis) -> None:
        logger.warning("%s failed: %s", instance.model.name, finding.reason)
        self._memory.expect_release(instance.pk, instance.running_generation)
        dossiers.save_dossier(instance, finding)
        self._end(
            instance,
            InstanceState.FAILED,
            desired=Desired.STOPPED,
            retry_at=timezone.now() + FAILURE_BACKOFF,
            **finding.instance_fields,
        )

    def _end(self, instance: Instance, outcome: InstanceState, **fields) -> None:
        """The tree has ended: release its claim and close the row."""
        with transaction.atomic():
            ended = self._move(instance, outcome, healthy=False, endpoint="", pid=None, **fields)
            if ended:
                memory_ledger.release(instance.pk)
        if ended:
            self._probes.forget(instance.pk)
            self._asked = {run: asked for run, asked in self._asked.items() if run[0] != instance.pk}
            self._let_go = {run: since for run, since in self._let_go.items() if run[0] != instance.pk}


STEPS = {
    InstanceStep.LAUNCH: Agent._launch,
    InstanceStep.READY: Agent._ready,
    InstanceStep.HEALTH: Agent._health,
    InstanceStep.DRAIN: Agent._drain,
    InstanceStep.UNLOAD: Agent._unload,
    InstanceStep.END: Agent._end_tree,
    InstanceStep.SWEEP: Agent._sweep,
    InstanceStep.STOPPED: Agent._stopped,
    InstanceStep.AGAIN: Agent._again,
    InstanceStep.CRASHED: Agent._crashed,
    InstanceStep.FAILED: Agent._failed,
    InstanceStep.TIMED_OUT: Agent._end_tree,  # a later tick sees a failure
}


def _exit_of(state: shims.ShimState | None) -> dict:
    return {"exit_code": state.exit_code, "exit_signal": state.signal} if state else {}
