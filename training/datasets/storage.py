"""Where a tenant's data sets and the files of its training jobs lie on disk."""

import os
import shutil
from pathlib import Path
from typing import BinaryIO

from django.conf import settings
from django.utils.translation import gettext as _

from core.errors import NotFound
from training.models import Dataset, TrainingJob


def path_of(dataset: Dataset) -> Path:
    return settings.DATA_DIR / "tenants" / dataset.tenant.slug / "datasets" / f"{dataset.pk}.jsonl"


def open_dataset(dataset: Dataset) -> BinaryIO:
    """To read. A link in its place is followed nowhere. Raises NotFound."""
    try:
        return os.fdopen(os.open(path_of(dataset), os.O_RDONLY | os.O_NOFOLLOW), "rb")
    except OSError:
        raise NotFound(_("The file of this data set is gone.")) from None


def folder_of(job: TrainingJob) -> Path:
    """One folder per run is in it."""
    return settings.DATA_DIR / "tenants" / job.tenant.slug / "training" / job.pk


def remove_folder(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
