"""Which rows of a job are cut or left out at its recipe's length: counted before the start, then by its trainer.

A job's `row_counts` has `rows`, `cut` and `left_out`; `limit` is the length that was counted for, `generation` the run
whose trainer reported it, missing in a count from before the start. Empty: not counted yet.
"""

import os
from itertools import islice
from typing import BinaryIO

import orjson
from django.utils.translation import gettext as _

from core.errors import PlatformError
from models_app.models import Model
from training.datasets import storage, tokens
from training.datasets.tokens import NotTeachable
from training.models import Dataset, TrainingJob

MAX_LINES, MAX_LINE_BYTES = 100, 64 * 1024  # of a progress file, to look for the event of the start
MAX_ROWS = 2**31 - 1


def count_before_start(dataset: Dataset, model: Model, limit: int) -> tuple[dict[str, int], list[str]]:
    """The counts with warnings. Raises NotTeachable, since the trainer would refuse the rows too."""
    try:
        found = tokens.count_tokens(dataset, model, limit)
    except NotTeachable:
        raise
    except PlatformError as error:
        problem = _("Rows longer than %(limit)d tokens are cut or left out. They could not be counted: %(why)s")
        return {}, [problem % {"limit": limit, "why": error.message}]
    counts = {"rows": found.rows, "cut": found.rows_cut, "left_out": found.rows_left_out, "limit": found.limit}
    return counts, warnings(counts, dataset.rows)


def warnings(counts: dict[str, int], dataset_rows: int) -> list[str]:
    """In the caller's language."""
    problems = []
    if counts.get("cut"):
        problems.append(
            _("%(cut)d of %(rows)d rows are longer than %(limit)d tokens and are taught without their end.")
        )
    if counts.get("left_out"):
        problems.append(_("%(left_out)d of %(rows)d rows have nothing to learn within %(limit)d tokens: left out."))
    if counts and counts["rows"] < dataset_rows:
        problems.append(_("Only the first %(rows)d rows were counted."))
    return [problem % counts for problem in problems]


def event_message(job: TrainingJob) -> str:
    """For events, which are in English; empty if every row is learnt completely."""
    counts, kinds = job.row_counts, (("cut", "cut"), ("left_out", "left out"))
    parts = [f"{counts[name]} of {counts['rows']} rows are {verb}" for name, verb in kinds if counts.get(name)]
    return f"{' and '.join(parts)} at {counts['limit']} tokens." if parts else ""


def adopt_trainer_counts(job: TrainingJob) -> None:
    """Stores the counts that the trainer of the job's run has reported, once per run."""
    run = job.running_generation
    if not run or job.row_counts.get("generation") == run:
        return
    if counts := _read_counts(job):
        TrainingJob.objects.filter(pk=job.pk, running_generation=run).update(row_counts=counts)
        job.row_counts = counts


def _read_counts(job: TrainingJob) -> dict[str, int] | None:
    """None until the trainer has reported them."""
    path = storage.generation_folder(storage.folder_of(job), job.running_generation) / "progress.jsonl"
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
            event = _start_event(file)
    except OSError:
        return None
    cut, left_out, *others = (_count(event.get(name)) for name in ("truncated", "left_out", "rows", "held_out_rows"))
    if cut is None or left_out is None or None in others:
        return None
    rows = left_out + sum(count for count in others if count)
    limit = _count(event.get("limit")) or job.recipe["max_seq_length"]
    return {"rows": rows, "cut": cut, "left_out": left_out, "limit": limit, "generation": job.running_generation}


def _start_event(file: BinaryIO) -> dict:
    """Among the first lines. The trainer works with a tenant's data: anything else is skipped."""
    for line in islice(iter(lambda: file.readline(MAX_LINE_BYTES), b""), MAX_LINES):
        try:
            event = orjson.loads(line)
        except orjson.JSONDecodeError:
            continue
        if isinstance(event, dict) and event.get("event") == "start":
            return event
    return {}


def _count(value: object) -> int | None:
    """None if it is no number of rows."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_ROWS else None
