"""Reconciles the engine instances of this node, and the adapters that their engines have loaded."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import timedelta

from django.db.models import QuerySet
from django.utils import timezone

from accounts import configuration
from engines import registry
from inference import memory_ledger
from inference.crashes import dossiers
from inference.crashes.dossiers import CrashDiagnosis
from inference.instances import gateway_reports, transitions
from inference.instances.gateway_reports import GatewayReports
from inference.models import Desired, EngineTokens, Instance, InstanceState, StopReason
from inference.serving import services
from node_agent import crash_diagnosis, folders, process_tree
from node_agent.adapter_loading import AdapterReconciler
from node_agent.extra_workloads import NodeContext
from node_agent.instance_lifecycle import InstanceFacts, InstanceObservation, InstanceStep, decide
from node_agent.log_shipper import LogSource, log_source
from node_agent.probes import DRAINING_INTERVAL, METRICS_INTERVAL, STARTING_INTERVAL, Probe, Probes
from node_agent.process_tree import ProcessStatus, RunKey
from node_agent.reconciler import Handler, Reconciler, RowIdentity, StartError, owned_row
from node_agent.schedule import AgentTask
from node_agent.shims import ShimState

STABLE_AFTER = timedelta(minutes=5)
CRASH_DELAYS = (0.0, 2.0, 5.0)  # seconds before the first, second, third start after a crash
LOG_RETENTION = timedelta(days=1)
FAILURE_BACKOFF = timedelta(seconds=30)  # requests do not restart a failed model earlier


class InstanceReconciler(Reconciler[Instance, InstanceState, InstanceFacts, InstanceStep]):
    crash_delays = CRASH_DELAYS
    stop_grace = process_tree.STOP_GRACE

    def __init__(self, context: NodeContext) -> None:
        super().__init__(context)
        self._probes = Probes(on_change=context.wake)
        self._adapters = AdapterReconciler(on_change=context.wake)
        self._reports = GatewayReports([], [], {})  # of this tick
        self._let_go: dict[RunKey, float] = {}  # since when no gateway has used it

    def shut_down(self) -> None:
        """End the threads; engines keep running."""
        self._probes.close()
        self._adapters.close()

    def reset_after_boot(self) -> None:
        """All engines have ended. Those that requests had started wait for the next request; all others restart."""
        for instance in self.rows():
            if process_tree.observe_run(instance.pk, self.expected_generation(instance))[0] == ProcessStatus.RUNNING:
                continue
            if instance.desired == Desired.STOPPED:
                self._end(instance, InstanceState.STOPPED)
            elif instance.on_demand:
                self._end(instance, InstanceState.STOPPED, desired=Desired.STOPPED, stop_reason=StopReason.RESTARTED)
            else:
                generation = max(instance.generation, instance.running_generation + 1)
                self.move(instance, InstanceState.PENDING, generation=generation, crashes=0)

    # --- as a workload of the agent

    def reconcile(self) -> None:
        self._reports = gateway_reports.read_reports()
        instances = self.reconcile_rows()
        self._adapters.reconcile(instances, self._reports, self.context.node.fence)

    def active(self) -> set[str]:
        return set(Instance.objects.on(self.context.node).active().values_list("pk", flat=True))

    def ended(self, found: Iterable[str]) -> set[str]:
        rows = Instance.objects.on(self.context.node).ended().filter(pk__in=found)
        return set(rows.values_list("pk", flat=True))

    def log_sources(self, *, recent: bool) -> list[LogSource]:
        rows = Instance.objects.on(self.context.node)
        rows = rows.filter(updated_at__gt=timezone.now() - LOG_RETENTION) if recent else rows.active()
        return [log_source(instance) for instance in rows]

    # --- what is observed

    def rows(self) -> list[Instance]:
        rows = Instance.objects.on(self.context.node).active().select_related("model")
        return list(rows.order_by("-model__priority", "created_at"))

    def label(self, row: Instance) -> str:
        return f"{row.model.name} ({row.pk})"

    def identify(self, row: Instance) -> RowIdentity:
        return RowIdentity(row.pk, row.tenant_id, row.state, row.running_generation)

    def expected_generation(self, row: Instance) -> int | None:
        return None if row.state == InstanceState.PENDING else row.running_generation

    def observe(self, row: Instance, process: ProcessStatus, shim: ShimState | None) -> InstanceFacts:
        probe = self._probe(row) if process == ProcessStatus.RUNNING else Probe()
        self._note_readings(row, probe)
        in_state_for = (timezone.now() - row.state_since).total_seconds()
        return InstanceFacts(
            healthy=probe.healthy,
            unhealthy_for=probe.unhealthy_for(),
            in_state_for=in_state_for,
            let_go_for=self._let_go_for(row),
            engine_busy=probe.busy or probe.healthy is not False and not probe.measured_within(in_state_for),
            idle=self._reports.idle_seconds(row.model_id),
            idle_timeout=0 if row.model.pinned else row.model.idle_timeout,
            may_launch=self._may_launch(row),
        )

    def decide(self, seen: InstanceObservation) -> InstanceStep:
        return decide(seen)

    def forget(self, owner: str) -> None:
        self._probes.forget(owner)
        self._let_go = {run: since for run, since in self._let_go.items() if run[0] != owner}

    def _probe(self, instance: Instance) -> Probe:
        """Polled many times a second while the engine starts, so that it is seen as ready without a tick's delay."""
        path = registry.get(instance.model.framework).health_path
        every, metrics_every = float(configuration.current().health_check_interval), METRICS_INTERVAL
        if instance.state == InstanceState.STARTING:
            every = STARTING_INTERVAL
        elif instance.state == InstanceState.DRAINING:
            metrics_every = DRAINING_INTERVAL
        folder = folders.folder_of(instance.pk)
        return self._probes.poll_run(instance.pk, instance.running_generation, folder, path, every, metrics_every)

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

    def _let_go_for(self, instance: Instance) -> float | None:
        """Seconds since no gateway uses it any more; None while one does."""
        run = (instance.pk, instance.running_generation)
        if instance.state != InstanceState.DRAINING or not self._reports.is_drained(instance):
            self._let_go.pop(run, None)
            return None
        return time.monotonic() - self._let_go.setdefault(run, time.monotonic())

    def _may_launch(self, instance: Instance) -> bool:
        """After its back-off; one start per device at a time; only once the instances it replaces have ended."""
        if instance.retry_at and instance.retry_at > timezone.now():
            return False
        return self.context.memory.may_start(instance.pk) and not memory_ledger.is_above_limit()

    # --- what is done

    def handlers(self) -> Mapping[InstanceStep, Handler[Instance, InstanceFacts]]:
        return {
            InstanceStep.LAUNCH: self.launch,
            InstanceStep.READY: self._mark_ready,
            InstanceStep.HEALTH: self._record_health,
            InstanceStep.DRAIN: self._drain,
            InstanceStep.UNLOAD: self._unload,
            InstanceStep.END: self.end_tree,
            InstanceStep.SWEEP: self.sweep,
            InstanceStep.STOPPED: self.once_released(self._stop),
            InstanceStep.AGAIN: self._start_again,
            InstanceStep.CRASHED: self.handle_crash,
            InstanceStep.FAILED: self.handle_failure,
            InstanceStep.TIMED_OUT: self.end_tree,  # a later tick sees a failure
        }

    def move(self, row: Instance, state: InstanceState, **fields: object) -> bool:
        return transitions.move(row, state, fence=self.context.node.fence, **fields)

    def start(self, seen: InstanceObservation) -> None:
        instance = seen.row
        fields = {
            "running_generation": instance.generation,
            "started_at": timezone.now(),
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
        if not self.move(instance, InstanceState.STARTING, **fields):
            return
        command = process_tree.command_for(instance)
        started = self.start_tree(instance, command)
        self._owned(instance).update(pid=started.pid, launch=process_tree.describe_launch(command))

    def is_stop_forced(self, row: Instance) -> bool:
        return row.force_stop

    def _mark_ready(self, seen: InstanceObservation) -> None:
        self.move(
            seen.row,
            InstanceState.READY,
            endpoint=f"unix://{folders.socket_of(seen.row.pk)}",
            healthy=True,
            ready_at=timezone.now(),
            failure_reason="",
            failure_cause="",
            log_tail=[],
            retry_at=None,
        )
        self.context.schedule.bring_forward(AgentTask.MEASURE_MEMORY)  # measure a new engine soon

    def _record_health(self, seen: InstanceObservation) -> None:
        if self._owned(seen.row).update(healthy=seen.facts.healthy):
            seen.row.refresh_from_db()
            transitions.publish_status(seen.row)

    def _drain(self, seen: InstanceObservation) -> None:
        self.move(seen.row, InstanceState.DRAINING)

    def _unload(self, seen: InstanceObservation) -> None:
        """The model is idle. Its instances on other nodes follow in the next tick of their agents."""
        if services.unload(seen.row.model):
            self.move(seen.row, InstanceState.DRAINING)

    def _stop(self, seen: InstanceObservation) -> None:
        exit_fields = {"exit_code": seen.shim.exit_code, "exit_signal": seen.shim.signal} if seen.shim else {}
        self._end(seen.row, InstanceState.STOPPED, **exit_fields)

    def _start_again(self, seen: InstanceObservation) -> None:
        self.expect_release(seen.row)
        fields = {"crashes": 0, "force_stop": False, "retry_at": None, "endpoint": "", "healthy": False}
        self.move(seen.row, InstanceState.PENDING, **fields)

    def _end(self, instance: Instance, outcome: InstanceState, **fields: object) -> None:
        self.close(instance, outcome, healthy=False, endpoint="", **fields)

    def _owned(self, instance: Instance) -> QuerySet[Instance]:
        return owned_row(Instance.objects.all(), self.identify(instance), self.context.node)

    # --- crashes and failures

    def diagnose(self, seen: InstanceObservation) -> CrashDiagnosis:
        return crash_diagnosis.diagnose_end(seen.row, seen.shim)

    def diagnose_error(self, error: StartError) -> CrashDiagnosis:
        return crash_diagnosis.diagnose_start_failure(error)

    def count_crashes(self, row: Instance) -> int:
        stable = row.ready_at and timezone.now() - row.ready_at > STABLE_AFTER
        return 1 if stable else row.crashes + 1

    def retry(self, row: Instance, diagnosis: CrashDiagnosis, crashes: int, delay: float) -> None:
        dossiers.save_dossier(row, diagnosis)
        self.move(
            row,
            InstanceState.PENDING,
            generation=row.running_generation + 1,
            crashes=crashes,
            retry_at=timezone.now() + timedelta(seconds=delay),
            healthy=False,
            endpoint="",
            **diagnosis.instance_fields,
        )

    def give_up(self, row: Instance, diagnosis: CrashDiagnosis, crashes: int) -> None:
        self.fail(row, replace(diagnosis, reason=f"It crashed {crashes} times in a row. {diagnosis.reason}"))

    def record_failure(self, row: Instance, diagnosis: CrashDiagnosis, **fields: object) -> None:
        dossiers.save_dossier(row, diagnosis)
        self._end(
            row,
            InstanceState.FAILED,
            desired=Desired.STOPPED,
            retry_at=timezone.now() + FAILURE_BACKOFF,
            **diagnosis.instance_fields,
            **fields,
        )
