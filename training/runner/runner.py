"""Reconciles the training jobs that are placed on this node, in each tick of its agent."""

import logging
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from functools import partial

from django.db import DatabaseError, InterfaceError, transaction
from django.db.models.functions import Coalesce, Now
from django.utils import timezone

from core import logs
from core.errors import PlatformError
from engines.causes import Cause
from inference import memory_ledger
from inference.crashes.dossiers import CrashDiagnosis
from inference.models import Node, Use
from node_agent import folders, process_tree, shims
from node_agent.decide import KILL_SLACK, ProcessStatus
from node_agent.device_memory import DeviceMemory
from node_agent.log_shipper import LogSource
from training.datasets import storage
from training.models import JobState, TrainingJob
from training.runner import job_diagnosis, job_updates, program, results, run_folder
from training.runner.decide import BACK_OFF, MAX_CRASHES, REFUSED, JobObservation, JobStep, count_crashes, decide
from training.runner.run import TrainingRun

logger = logging.getLogger(__name__)

STOP_GRACE = 120.0  # seconds for the current step and a checkpoint
START_TIMEOUT = timedelta(minutes=10)  # then a trainer without events no longer blocks other starts
LOG_FILES_KEPT = timedelta(days=1)
FILE_THREADS = 1  # one task at a time: no folder is removed while it is made


class TrainingRunner:
    """One per agent. Slow file work is done in a thread that reads no database."""

    def __init__(self, node: Node, cluster: str, memory: DeviceMemory):
        self._node, self._cluster, self._memory = node, cluster, memory
        self._files = ThreadPoolExecutor(FILE_THREADS, thread_name_prefix="training-files")
        self._runs: dict[str, TrainingRun] = {}
        self._not_before: dict[str, float] = {}  # job → earliest next launch, on the monotonic clock

    # --- what the agent calls

    def reconcile(self) -> None:
        placed = list(self._placed().select_related("tenant", "base_model", "dataset").order_by("created_at"))
        for job in placed:
            with logs.bound(tenant=job.tenant_id, instance=job.pk), self._reread_after_failure(job):
                self._attend(job)
        self._runs = {pk: run for pk, run in self._runs.items() if pk in {job.pk for job in placed}}

    def active(self) -> set[str]:
        return set(self._placed().values_list("pk", flat=True))

    def ended(self, found: Iterable[str]) -> set[str]:
        return set(TrainingJob.objects.filter(pk__in=found).values_list("pk", flat=True)) - self.active()

    def log_sources(self, *, recent: bool) -> list[LogSource]:
        rows = self._placed()
        if recent:
            rows = rows | TrainingJob.objects.filter(state_since__gt=timezone.now() - LOG_FILES_KEPT)
        ids = rows.values_list("pk", flat=True)
        return [LogSource(pk, stream=pk, replica=0, since=0.0, folder=folders.folder_of(pk)) for pk in ids]

    def _placed(self):
        return TrainingJob.objects.placed().filter(node=self._node)

    # --- one job

    def _attend(self, job: TrainingJob) -> None:
        process, state = process_tree.observe_run(
            job.pk, job.running_generation if job.state == JobState.RUNNING else None
        )
        run = self._run(job)
        if process == ProcessStatus.RUNNING:
            shims.renew_lease(folders.folder_of(job.pk))
        if job.state == JobState.RUNNING:
            self._read(job, run)
        step = decide(job, self._seen(job, run, process, state))
        if step != JobStep.WAIT:
            logger.debug("%s (%s): %s", job.pk, job.state, step.value)
            STEPS[step](self, job, run, state)

    @contextmanager
    def _reread_after_failure(self, job: TrainingJob) -> Iterator[None]:
        """Events that were read but not written, because the database went away, are read again."""
        try:
            yield
        except (DatabaseError, InterfaceError):
            self._runs.pop(job.pk, None)
            raise

    def _run(self, job: TrainingJob) -> TrainingRun:
        generation = job.running_generation if job.state == JobState.RUNNING else job.generation
        run = self._runs.get(job.pk)
        if run is None or run.generation != generation:
            run = self._runs[job.pk] = TrainingRun(job.pk, generation, self._folder(job, generation))
        return run

    def _folder(self, job: TrainingJob, generation: int):
        return storage.folder_of(job) / f"gen-{generation}"

    def _read(self, job: TrainingJob, run: TrainingRun) -> None:
        events = run.read(self._files, job.checkpoints)
        job_updates.save_events(job, events, self._node, (job.launch or {}).get("elapsed_before", 0.0))
        if not run.has_events and timezone.now() - job.state_since > START_TIMEOUT:
            memory_ledger.record_use(job.pk, Use.IN_USE)
        for checkpoint in run.collect_signed():
            if job_updates.save_checkpoint(job, checkpoint, self._node):
                self._tidy(job)

    def _seen(
        self, job: TrainingJob, run: TrainingRun, process: ProcessStatus, state: shims.ShimState | None
    ) -> JobObservation:
        return JobObservation(
            process=process,
            exit_code=state.exit_code if state else None,
            ended_by=state.reason if state else None,
            all_read=run.all_read,
            finished=run.finished,
            refused=bool(run.error) or bool(state and state.exit_code == REFUSED),
            may_launch=self._may_launch(job),
        )

    def _may_launch(self, job: TrainingJob) -> bool:
        if job.state != JobState.QUEUED or time.monotonic() < self._not_before.get(job.pk, 0.0):
            return False
        return self._memory.may_start(job.pk)

    # --- steps

    def _launch(self, job: TrainingJob, run: TrainingRun, _state) -> None:
        """Takes two ticks: in between, the checkpoint to resume from is copied and checked."""
        try:
            if run.prepared is None:
                run.prepared = self._files.submit(run_folder.prepare_folder, self._plan(job))
            elif run.prepared.done():
                self._start(job, run, run.prepared.result())
        except (PlatformError, OSError, shims.LaunchFailed) as error:
            self._fail(job, job_diagnosis.diagnose_error(error))

    def _plan(self, job: TrainingJob) -> run_folder.RunSetup:
        return run_folder.RunSetup(
            job.pk, storage.folder_of(job), job.generation, program.spec_for(job), job.checkpoints
        )

    def _start(self, job: TrainingJob, run: TrainingRun, resumed_from: int | None) -> None:
        command = program.command_for(job, run.folder)
        launch = process_tree.describe_launch(command) | {
            "elapsed_before": job.elapsed_seconds,
            "resumed_from": resumed_from,
        }
        fields = {"running_generation": job.generation, "started_at": Coalesce("started_at", Now()), "launch": launch}
        with transaction.atomic():
            if not job_updates.move(job, JobState.RUNNING, self._node, **fields):
                return
            memory_ledger.record_use(job.pk, Use.LOADING)
        started = process_tree.launch(
            job.pk, job.running_generation, command, self._cluster, cwd=run.folder, grace=STOP_GRACE
        )
        TrainingJob.objects.filter(pk=job.pk, running_generation=job.running_generation).update(pid=started.pid)

    def _end_tree(self, job: TrainingJob, run: TrainingRun, state: shims.ShimState) -> None:
        """Asks the shim; kills the tree without it after the grace period."""
        if run.stop_requested_at is None:
            shims.request_stop(folders.folder_of(job.pk), state, STOP_GRACE)
            run.stop_requested_at = time.monotonic()
        elif time.monotonic() - run.stop_requested_at > STOP_GRACE + KILL_SLACK:
            self._sweep(job, run, state)

    def _sweep(self, job: TrainingJob, _run, _state) -> None:
        process_tree.kill_leftovers(job.pk, self._cluster)

    def _again(self, job: TrainingJob, _run, _state, **fields) -> None:
        """On the same devices, from the last checkpoint."""
        self._memory.expect_release(job.pk, job.running_generation)
        with transaction.atomic():
            generation = job.running_generation + 1
            if job_updates.move(job, JobState.QUEUED, self._node, generation=generation, pid=None, **fields):
                memory_ledger.record_use(job.pk, Use.RESERVED)

    def _crashed(self, job: TrainingJob, run: TrainingRun, state) -> None:
        finding, crashes = job_diagnosis.diagnose_end(job.pk, state, run.error), count_crashes(job)
        furthest = max(job.step, job.crashed_at_step or 0)
        logger.warning("%s crashed at step %d: %s", job.pk, job.step, finding.reason)
        if finding.cause == Cause.DISK_FULL:
            self._fail(job, finding)
        elif crashes >= MAX_CRASHES:
            reason = f"It crashed {crashes} times at step {job.step}. {finding.reason}"
            self._fail(job, finding, reason, crashes=crashes, crashed_at_step=furthest)
        else:
            self._not_before[job.pk] = time.monotonic() + BACK_OFF[crashes - 1]
            self._again(job, run, state, crashes=crashes, crashed_at_step=furthest)

    def _failed(self, job: TrainingJob, run: TrainingRun, state) -> None:
        self._fail(job, job_diagnosis.diagnose_end(job.pk, state, run.error))

    def _fail(self, job: TrainingJob, finding: CrashDiagnosis, reason: str = "", **fields) -> None:
        self._memory.expect_release(job.pk, job.running_generation)
        self._close(
            job,
            JobState.FAILED,
            failure_reason=reason or finding.reason,
            failure_cause=finding.cause,
            log_tail=finding.lines,
            **fields,
        )

    def _completed(self, job: TrainingJob, run: TrainingRun, _state) -> None:
        if not self._memory.is_released(job.pk, job.running_generation):
            return
        try:
            self._close(job, JobState.COMPLETED, before_release=partial(results.save_adapter, job, run.folder))
        except (PlatformError, OSError) as error:
            job.refresh_from_db()
            self._fail(job, job_diagnosis.diagnose_error(error))

    def _paused(self, job: TrainingJob, _run, _state) -> None:
        """Releases the node: the next run may be on another one."""
        is_back = self._memory.is_released(job.pk, job.running_generation)
        if is_back and job_updates.end(job, JobState.PAUSED, self._node, node_id=None, placement={}):
            self._tidy(job)

    def _cancelled(self, job: TrainingJob, _run, _state) -> None:
        if self._memory.is_released(job.pk, job.running_generation):
            self._close(job, JobState.CANCELLED)

    def _close(self, job: TrainingJob, state: JobState, **fields) -> None:
        if job_updates.end(job, state, self._node, finished_at=Now(), **fields):
            self._tidy(job)

    def _tidy(self, job: TrainingJob) -> None:
        """Removes files that no later run needs, in a thread."""
        running = job.running_generation if job.state == JobState.RUNNING else None
        kept = [] if job.state == JobState.COMPLETED else job.checkpoints
        self._files.submit(run_folder.remove_old_runs, storage.folder_of(job), running, kept)


STEPS = {
    JobStep.LAUNCH: TrainingRunner._launch,
    JobStep.END: TrainingRunner._end_tree,
    JobStep.SWEEP: TrainingRunner._sweep,
    JobStep.AGAIN: TrainingRunner._again,
    JobStep.CRASHED: TrainingRunner._crashed,
    JobStep.COMPLETED: TrainingRunner._completed,
    JobStep.PAUSED: TrainingRunner._paused,
    JobStep.CANCELLED: TrainingRunner._cancelled,
    JobStep.FAILED: TrainingRunner._failed,
}
