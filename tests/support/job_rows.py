"""Helpers for tests of training jobs: a base model and a dataset on disk, jobs created through the API."""

from django.conf import settings

from accounts.models import Tenant
from models_app.models import Model
from tests.support import weight_files
from training.datasets import storage
from training.models import Dataset, DesiredJobState, Format, JobState, TrainingJob

ROW = '{"prompt": "What is the capital of France?", "completion": "Paris."}\n'
SMALL = {"batch_size": 1, "max_seq_length": 64, "rank": 8}


def base(tenant: Tenant, name: str = "base", **config) -> Model:
    """A base model with a context of 512 tokens."""
    weight_files.folder(settings.DATA_DIR / "tenants" / tenant.slug / "models" / "base")
    return Model.objects.create(tenant=tenant, name=name, config={"model_path": "base", "enable_lora": True, **config})


def dataset(tenant: Tenant, name: str = "facts", *, version: int = 1, rows: int = 8, text: str = ROW) -> Dataset:
    made = Dataset.objects.create(
        tenant=tenant, name=name, version=version, format=Format.PROMPT, rows=rows, characters=36 * rows,
        size_bytes=len(text) * rows, sha256="0" * 64,
    )  # fmt: skip
    path = storage.path_of(made)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text * rows)
    return made


def order(**fields) -> dict:
    """A body of POST /api/training/jobs."""
    return {"base_model": "base", "dataset": "facts", "adapter": "capitals", "recipe": SMALL, **fields}


def on_a_node(job: TrainingJob, node, state: JobState = JobState.RUNNING, **fields) -> TrainingJob:
    """Set the row as the queue and a runner would have left it."""
    options = {"state": state, "node": node, "desired": DesiredJobState.RUNNING, "running_generation": 1, **fields}
    TrainingJob.objects.filter(pk=job.pk).update(**options)
    job.refresh_from_db()
    return job
