"""Where a tenant's data sets lie on disk."""

from pathlib import Path

from django.conf import settings

from training.models import Dataset


def path_of(dataset: Dataset) -> Path:
    return settings.DATA_DIR / "tenants" / dataset.tenant.slug / "datasets" / f"{dataset.pk}.jsonl"
