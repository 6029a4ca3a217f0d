"""The result of a finished training: a version of an adapter, with its evaluation."""

from pathlib import Path

from core.errors import NotFound
from models_app.adapters import services as adapters
from models_app.adapters.services import Origin
from training.models import TrainingJob
from training.runner import run_folder


def save_adapter(job: TrainingJob, folder: Path) -> None:
    """Called in the transaction that completes the job. Raises PlatformError for invalid files, OSError."""
    if job.base_model is None:
        raise NotFound
    adapters.save_version(
        tenant=job.tenant,
        base_model=job.base_model,
        name=job.adapter_name,
        folder=folder / "adapter",
        evaluation=run_folder.read_evaluation(folder),
        origin=Origin(
            job_id=job.pk,
            dataset_id=job.dataset_id or "",
            dataset_name=job.dataset_name,
            dataset_version=job.dataset_version,
            user=job.created_by,
            key_id=job.key_id or "",
        ),
    )
