"""Where a tenant's datasets and the files of its training jobs are stored."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from django.conf import settings
from django.utils.translation import gettext as _

from core.errors import NotFound
from training.models import Dataset, TrainingJob

GENERATION_PREFIX = "gen-"


def path_of(dataset: Dataset) -> Path:
    return settings.DATA_DIR / "tenants" / dataset.tenant.slug / "datasets" / f"{dataset.pk}.jsonl"


def open_dataset(dataset: Dataset) -> BinaryIO:
    """Opens it for reading; does not follow a symlink. Raises NotFound."""
    try:
        return os.fdopen(os.open(path_of(dataset), os.O_RDONLY | os.O_NOFOLLOW), "rb")
    except OSError:
        raise NotFound(_("The file of this data set is gone.")) from None


def folder_of(job: TrainingJob) -> Path:
    """Contains one folder for each run (`generation_folder`)."""
    return settings.DATA_DIR / "tenants" / job.tenant.slug / "training" / job.pk


def generation_folder(job_folder: Path, generation: int) -> Path:
    """The folder of one run of a job."""
    return job_folder / f"{GENERATION_PREFIX}{generation}"


def generation_folders(job_folder: Path) -> Iterator[Path]:
    """The existing folders of a job's runs."""
    return job_folder.glob(f"{GENERATION_PREFIX}*")


def remove_folder(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
