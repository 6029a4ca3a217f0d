"""Training jobs on the agent under test, with a fake trainer and a real shim."""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from django.db import transaction

from core.units import MIB
from engines.base import MemoryEstimate
from inference.placement import claim, cluster_view
from inference.placement.types import PlacementRequest, ResourceOption
from models_app.models import Model
from node_agent import folders, shims
from node_agent.agent import Agent
from node_agent.shims import ShimState
from tests.fakes.fake_aware_engine import TAG
from tests.support.trainer_runs import FAKE, conversation
from training.datasets import storage
from training.datasets.tokens import counter_argv
from training.jobs.recipe import Hyperparameters
from training.models import Dataset, Format, TrainingJob
from training.runner.program import trainer_argv

FAKE_COUNTER = FAKE.with_name("fake_counter.py")
WAIT_TIMEOUT = 60  # seconds, on a busy machine
SIZE = 64 * MIB


def trainer(job: TrainingJob) -> list[str]:
    """The command of the fake trainer for base models with the tag `fake`, else of the real one."""
    return [sys.executable, str(FAKE)] if TAG in job.base_model.tags else trainer_argv(job)


def counter(model: Model) -> list[str]:
    """The command of the fake counter of tokens for base models with the tag `fake`, else of the real one."""
    return [sys.executable, str(FAKE_COUNTER)] if TAG in model.tags else counter_argv(model)


def fake_counter(_model: Model) -> list[str]:
    return [sys.executable, str(FAKE_COUNTER)]


def dataset(tenant, rows: int = 20) -> Dataset:
    made = Dataset.objects.create(
        tenant=tenant, name="facts", version=Dataset.objects.count() + 1, format=Format.MESSAGES, rows=rows,
        characters=rows, size_bytes=rows, sha256="0" * 64,
    )  # fmt: skip
    path = storage.path_of(made)
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(conversation(f"Question {number}", f"Answer {number}")) for number in range(rows))
    path.write_text("".join(f"{line}\n" for line in lines))
    return made


def waiting(tenant, faults: dict | None = None, *, rows: int = 20, **recipe) -> TrainingJob:
    """A job of 15 steps in the queue, unless the recipe or the rows say otherwise."""
    base, _made = Model.objects.get_or_create(
        tenant=tenant, name="base", tags=[TAG], config={"model_path": "serai-demo"}
    )
    values = Hyperparameters(
        **{"epochs": 3, "learning_rate": 1e-3, "save_steps": 5, "eval_steps": 5, "rank": 8, **recipe}
    )
    data = dataset(tenant, rows)
    job = TrainingJob.objects.create(
        tenant=tenant, base_model=base, base_name=base.name, dataset=data, dataset_name=data.name,
        dataset_version=data.version, adapter_name="taught", recipe=asdict(values),
    )  # fmt: skip
    storage.folder_of(job).mkdir(parents=True)
    behave(job, faults or {})
    return job


def behave(job: TrainingJob, faults: dict) -> None:
    """Set the faults of the fake trainer (its class Faults) from the next run on."""
    (storage.folder_of(job) / "fake_trainer.json").write_text(json.dumps(faults))


@transaction.atomic
def place(job: TrainingJob, size: int = SIZE) -> bool:
    """Place the job as the queue does."""
    way = ResourceOption(kind="cpu", count=1, share=size, estimate=MemoryEstimate(size, 0, 0))
    request = PlacementRequest(job.pk, (way,))
    decision = claim.place_and_claim(job.pk, request, lambda: cluster_view.view_for_workload("vllm", job.queued_at))
    if decision.placed:
        job.node_id, job.placement = decision.devices[0].node_id, claim.placement_json(decision)
        job.save()
    return decision.placed


@dataclass
class SteppedAgent:
    """An agent that ticks only while a test waits."""

    agent: Agent

    def until(self, check: Callable):
        deadline = time.monotonic() + WAIT_TIMEOUT
        while not (value := check()):
            assert time.monotonic() < deadline, list(TrainingJob.objects.values("state", "failure_reason", "step"))
            self.agent.tick()
            time.sleep(0.02)
        return value

    def becomes(self, job: TrainingJob, state: str) -> TrainingJob:
        def has_state():
            job.refresh_from_db()
            return job.state == state

        self.until(has_state)
        return job

    def reaches(self, job: TrainingJob, step: int) -> TrainingJob:
        def has_step():
            job.refresh_from_db()
            return job.step >= step

        self.until(has_step)
        return job


def shim_of(job: TrainingJob) -> ShimState | None:
    return shims.read(folders.folder_of(job.pk))


def run_folder(job: TrainingJob, generation: int) -> Path:
    return storage.generation_folder(storage.folder_of(job), generation)
