"""Imports weights into a tenant's folder: written next to the target, checked, and moved there when complete."""

import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from django.utils.translation import gettext as _

from accounts.models import Tenant
from core.errors import Conflict
from models_app import artefacts

CHUNK = 16 * 1024 * 1024

ProgressCallback = Callable[[int, int], None]


@contextmanager
def import_folder(tenant: Tenant, name: str) -> Iterator[Path]:
    """Yields an empty folder to fill; afterwards it becomes the tenant's folder `name`, if engines may load it.

    Raises artefacts.RefusedWeights or MissingWeights, Conflict if the name has files already, OSError.
    """
    target = artefacts.tenant_folder(tenant) / name
    if artefacts.locate(tenant, name).exists():
        raise Conflict(_("There are files under the name %(name)s already.") % {"name": name})
    temporary = target.parent / f".adding-{uuid.uuid4().hex}"
    draft = temporary / target.name
    try:
        draft.mkdir(parents=True)
        yield draft
        artefacts.inspect(draft)
        draft.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def copy_folder(source: Path, target: Path, progress: ProgressCallback) -> None:
    """Copy the files below `source`, following links. `progress` gets the bytes copied so far and in total."""
    files = [path for path in sorted(source.rglob("*")) if path.is_file()]
    total, copied = sum(path.stat().st_size for path in files), 0
    for path in files:
        destination = target / path.relative_to(source)
        destination.parent.mkdir(parents=True, exist_ok=True)
        with path.open("rb") as input_file, destination.open("xb") as output_file:
            while chunk := input_file.read(CHUNK):
                output_file.write(chunk)
                copied += len(chunk)
                progress(copied, total)
