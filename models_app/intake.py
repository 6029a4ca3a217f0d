"""Brings weights into a tenant's folder: beside it first, checked, and moved into place when they are whole."""

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

Progress = Callable[[int, int], None]


@contextmanager
def landing(tenant: Tenant, name: str) -> Iterator[Path]:
    """An empty folder to fill; it becomes the tenant's folder `name` afterwards, if engines may see what it holds.

    Raises artefacts.Refused or Missing for what they may not see, Conflict where something lies already, OSError.
    """
    target = artefacts.tenant_folder(tenant) / name
    if artefacts.locate(tenant, name).exists():
        raise Conflict(_("There are files under the name %(name)s already.") % {"name": name})
    beside = target.parent / f".adding-{uuid.uuid4().hex}"
    draft = beside / target.name
    try:
        draft.mkdir(parents=True)
        yield draft
        artefacts.inspect(draft)
        draft.rename(target)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def copy_folder(source: Path, target: Path, progress: Progress) -> None:
    """The files below `source`, links followed. `progress` gets the bytes copied so far and those of all files."""
    files = [path for path in sorted(source.rglob("*")) if path.is_file()]
    total, copied = sum(path.stat().st_size for path in files), 0
    for path in files:
        place = target / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        with path.open("rb") as reading, place.open("xb") as writing:
            while chunk := reading.read(CHUNK):
                writing.write(chunk)
                copied += len(chunk)
                progress(copied, total)
