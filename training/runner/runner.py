"""Reconciles the training jobs that are placed on this node, in each tick of its agent."""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from functools import partial

from django.db import DatabaseError, InterfaceError
from django.db.models.functions import Coalesce, Now
from django.utils import timezone

from core.errors import PlatformError
from engines.crash_cause import Cause
from inference import memory_ledger
from inference.crashes.dossiers import CrashDiagnosis
from inference.models import Use
from node_agent import folders, process_tree
from node_agent.extra_workloads import NodeContext
from node_agent.log_shipper import LogSource
from node_agent.process_tree import ProcessStatus
from node_agent.reconciler import Handler, Reconciler, RowIdentity, StartError
from node_agent.shims import ShimState
from training.datasets import storage
from training.models import JobState, TrainingJob, TrainingJobQuerySet
from training.runner import job_diagnosis, job_updates, program, results, run_folder
from training.runner.job_lifecycle import JobFacts, JobObservation, JobStep, count_crashes, decide
from training.runner.run import TrainingRun

STOP_GRACE = 120.0  # seconds for the current step and a checkpoint
CRASH_DELAYS = (0.0, 10.0)  # seconds before the start after the first and the second crash without progress
START_TIMEOUT = timedelta(minutes=10)  # then a trainer without events no longer blocks other starts
LOG_FILES_KEPT = timedelta(days=1)
FILE_THREADS = 1  # one task at a time: no folder is removed while it is made


class TrainingRunner(Reconciler[TrainingJob, JobState, JobFacts, JobStep]):
    """One per agent. Slow file work is done in a thread that reads no database."""

    log_level = logging.DEBUG

    def __init__(self, context: NodeContext) -> None:
        super().__init__(context)
        self._files = ThreadPoolExecutor(FILE_THREADS, thread_name_prefix="training-files")
        self._runs: dict[str, TrainingRun] = {}
        self._not_before: dict[str, float] = {}  # job → earliest next launch, on the monotonic clock

    @property
    def stop_grace(self) -> float:
        return STOP_GRACE

    @property
    def crash_delays(self) -> tuple[float, ...]:
        return CRASH_DELAYS

    # --- as a workload of the agent

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

    def _placed(self) -> TrainingJobQuerySet:
        return TrainingJob.objects.placed().filter(node=self.context.node)

    # --- what is observed

    def rows(self) -> list[TrainingJob]:
        return list(self._placed().select_related("tenant", "base_model", "dataset").order_by("created_at"))

    def identify(self, row: TrainingJob) -> RowIdentity:
        return job_updates.identify(row)

    def expected_generation(self, row: TrainingJob) -> int | None:
        return row.running_generation if row.state == JobState.RUNNING else None

    def observe(self, row: TrainingJob, process: ProcessStatus, shim: ShimState | None) -> JobFacts:
        run = self._run(row)
        if row.state == JobState.RUNNING:
            self._read(row, run)
        return JobFacts(run, run.all_read, run.finished, refused=bool(run.error), may_launch=self._may_launch(row))

    def decide(self, seen: JobObservation) -> JobStep:
        return decide(seen)

    def forget(self, owner: str) -> None:
        self._runs.pop(owner, None)
        self._not_before.pop(owner, None)

    def _run(self, job: TrainingJob) -> TrainingRun:
        generation = job.running_generation if job.state == JobState.RUNNING else job.generation
        run = self._runs.get(job.pk)
        if run is None or run.generation != generation:
            folder = storage.generation_folder(storage.folder_of(job), generation)
            run = self._runs[job.pk] = TrainingRun(job.pk, generation, folder)
        return run

    def _read(self, job: TrainingJob, run: TrainingRun) -> None:
        """Events that were read but not saved, because the database went away, are read again."""
        try:
            events = run.read(self._files, job.checkpoints)
            job_updates.save_events(job, events, self.context.node, (job.launch or {}).get("elapsed_before", 0.0))
            if not run.has_events and timezone.now() - job.state_since > START_TIMEOUT:
                memory_ledger.record_use(job.pk, Use.IN_USE)
            for checkpoint in run.collect_signed():
                if job_updates.save_checkpoint(job, checkpoint, self.context.node):
                    self._tidy(job)
        except (DatabaseError, InterfaceError):
            self._runs.pop(job.pk, None)
            raise

    def _may_launch(self, job: TrainingJob) -> bool:
        if job.state != JobState.QUEUED or time.monotonic() < self._not_before.get(job.pk, 0.0):
            return False
        return self.context.memory.may_start(job.pk)

    # --- what is done

    def handlers(self) -> Mapping[JobStep, Handler[TrainingJob, JobFacts]]:
        return {
            JobStep.LAUNCH: self.launch,
            JobStep.END: self.end_tree,
            JobStep.SWEEP: self.sweep,
            JobStep.AGAIN: self._resume,
            JobStep.CRASHED: self.handle_crash,
            JobStep.COMPLETED: self.once_released(self._complete),
            JobStep.PAUSED: self.once_released(self._pause),
            JobStep.CANCELLED: self.once_released(self._cancel),
            JobStep.FAILED: self.handle_failure,
        }

    def move(self, row: TrainingJob, state: JobState, **fields: object) -> bool:
        return job_updates.move(row, state, self.context.node, **fields)

    def start(self, seen: JobObservation) -> None:
        """Takes two ticks: in between, the checkpoint to resume from is copied and checked."""
        job, run = seen.row, seen.facts.run
        if run.prepared is None:
            plan = run_folder.RunSetup(
                job.pk, storage.folder_of(job), job.generation, program.spec_for(job), job.checkpoints
            )
            run.prepared = self._files.submit(run_folder.prepare_folder, plan)
        elif run.prepared.done():
            self._start_trainer(job, run, resumed_from=run.prepared.result())

    def _start_trainer(self, job: TrainingJob, run: TrainingRun, resumed_from: int | None) -> None:
        command = program.command_for(job, run.folder)
        launch = process_tree.describe_launch(command) | {
            "elapsed_before": job.elapsed_seconds,
            "resumed_from": resumed_from,
        }
        fields = {"running_generation": job.generation, "started_at": Coalesce("started_at", Now()), "launch": launch}
        if self.move(job, JobState.RUNNING, **fields):
            started = self.start_tree(job, command, cwd=run.folder)
            job_updates.save_pid(job, started.pid, self.context.node)

    def _resume(self, seen: JobObservation) -> None:
        self.expect_release(seen.row)
        self._queue_next_run(seen.row)

    def _queue_next_run(self, job: TrainingJob, **fields: object) -> None:
        """On the same devices, from the last checkpoint."""
        self.move(job, JobState.QUEUED, generation=job.running_generation + 1, pid=None, **fields)

    def _complete(self, seen: JobObservation) -> None:
        job, save = seen.row, partial(results.save_adapter, seen.row, seen.facts.run.folder)
        try:
            self._finish(job, JobState.COMPLETED, save)
        except (PlatformError, OSError) as error:
            job.refresh_from_db()
            self.fail(job, job_diagnosis.diagnose_error(error))

    def _pause(self, seen: JobObservation) -> None:
        """Releases the node: the next run may be on another one."""
        if self.close(seen.row, JobState.PAUSED, eta_seconds=None, node_id=None, placement={}):
            self._tidy(seen.row)

    def _cancel(self, seen: JobObservation) -> None:
        self._finish(seen.row, JobState.CANCELLED)

    def _finish(
        self, job: TrainingJob, state: JobState, before_release: Callable[[], None] = lambda: None, /, **fields: object
    ) -> None:
        if self.close(job, state, before_release, eta_seconds=None, finished_at=Now(), **fields):
            self._tidy(job)

    def _tidy(self, job: TrainingJob) -> None:
        """Removes files that no later run needs, in a thread."""
        running = job.running_generation if job.state == JobState.RUNNING else None
        kept = [] if job.state == JobState.COMPLETED else job.checkpoints
        self._files.submit(run_folder.remove_old_runs, storage.folder_of(job), running, kept)

    # --- crashes and failures

    def diagnose(self, seen: JobObservation) -> CrashDiagnosis:
        return job_diagnosis.diagnose_end(seen.row.pk, seen.shim, seen.facts.run.error)

    def diagnose_error(self, error: StartError) -> CrashDiagnosis:
        return job_diagnosis.diagnose_error(error)

    def is_final(self, diagnosis: CrashDiagnosis) -> bool:
        return diagnosis.cause == Cause.DISK_FULL

    def count_crashes(self, row: TrainingJob) -> int:
        return count_crashes(row)

    def retry(self, row: TrainingJob, diagnosis: CrashDiagnosis, crashes: int, delay: float) -> None:
        self._not_before[row.pk] = time.monotonic() + delay
        self._queue_next_run(row, crashes=crashes, crashed_at_step=_furthest_step(row))

    def give_up(self, row: TrainingJob, diagnosis: CrashDiagnosis, crashes: int) -> None:
        told = replace(diagnosis, reason=f"It crashed {crashes} times at step {row.step}. {diagnosis.reason}")
        self.fail(row, told, crashes=crashes, crashed_at_step=_furthest_step(row))

    def record_failure(self, row: TrainingJob, diagnosis: CrashDiagnosis, **fields: object) -> None:
        self._finish(
            row,
            JobState.FAILED,
            failure_reason=diagnosis.reason,
            failure_cause=diagnosis.cause,
            log_tail=diagnosis.lines,
            **fields,
        )


def _furthest_step(job: TrainingJob) -> int:
    return max(job.step, job.crashed_at_step or 0)
