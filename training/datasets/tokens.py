"""Counts a dataset's tokens for a base model, in the engine environment, which has the tokenizer."""

import json
import logging
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings
from django.utils.module_loading import import_string
from django.utils.translation import gettext as _

from core.errors import EngineUnavailable, InvalidRequest, OperationTimeout, RateLimited
from engines import install, registry
from engines.memory import DEFAULT_CONTEXT_LIMIT
from models_app import artefacts
from models_app.models import Model
from node_agent import shim
from training import base_models, trainer
from training.datasets import storage
from training.models import Dataset

logger = logging.getLogger(__name__)

PROGRAM = Path(trainer.__file__).with_name("counting.py")
MAX_ROWS = 20_000  # takes some seconds
COUNT_TIMEOUT = 60.0
MAX_CONCURRENT = 2  # in one process: each takes a core
_slots = threading.BoundedSemaphore(MAX_CONCURRENT)


@dataclass(frozen=True)
class TokenCount:
    """Counts of the first `rows`, chat template included; `learnt_tokens` are the assistant's.

    `limit` is the most tokens per row that are taken; `too_long` maps the first lines with more to their tokens.
    `rows_cut` are learnt without their end, of `rows_left_out` nothing is learnt.
    """

    rows: int
    tokens: int
    learnt_tokens: int
    longest: int
    limit: int
    rows_cut: int
    rows_left_out: int
    too_long_rows: int
    too_long: dict[str, int]


class NotTeachable(InvalidRequest):
    """The model's template cannot take the rows, or it has none: the trainer would refuse them too."""


def count_tokens(dataset: Dataset, model: Model, length: int | None = None) -> TokenCount:
    """For rows of at most `length` tokens, by default as many as the model takes.

    Raises NotTeachable, InvalidRequest for a model that cannot be trained, EngineUnavailable, RateLimited,
    OperationTimeout.
    """
    base = base_models.check(model)
    limit = min(found for found in (length, base.context or length or DEFAULT_CONTEXT_LIMIT) if found)
    folder = artefacts.locate(model.tenant, model.config["model_path"])
    argv = import_string(settings.TOKEN_COUNTER)(model)
    result = _run_counter(
        [*argv, str(folder), str(storage.path_of(dataset)), dataset.format, str(limit), str(MAX_ROWS)]
    )
    if "refused" in result:
        raise NotTeachable(result["refused"], param=result["field"] or base_models.FIELD)
    return TokenCount(**result, limit=limit)


def counter_argv(_model: Model) -> list[str]:
    """Raises EngineUnavailable."""
    if problem := registry.get(base_models.ENGINE).unavailable_reason():
        raise EngineUnavailable(problem)
    return [str(install.environment_python(base_models.ENGINE)), str(PROGRAM)]


def _run_counter(argv: list[str]) -> dict:
    environment = {"PATH": f"{Path(argv[0]).parent}:/usr/bin:/bin", "PYTHONPATH": str(Path(shim.__file__).parent)}
    with _slot():
        try:
            process = subprocess.run(argv, env=environment, capture_output=True, timeout=COUNT_TIMEOUT, cwd="/")
        except subprocess.TimeoutExpired:
            raise OperationTimeout(_("Counting took longer than %(seconds)d s.") % {"seconds": COUNT_TIMEOUT}) from None
        except OSError as error:
            logger.error("counting tokens could not be started: %s", error)
            raise EngineUnavailable(_("The program that counts tokens could not be started.")) from None
    if process.returncode:
        logger.error("counting tokens failed: %s", process.stderr[-2000:].decode(errors="replace"))
        raise InvalidRequest(
            _("The tokens could not be counted: the model's tokenizer is broken."), param=base_models.FIELD
        )
    return json.loads(process.stdout.splitlines()[-1])


@contextmanager
def _slot() -> Iterator[None]:
    if not _slots.acquire(blocking=False):
        raise RateLimited(_("Others are counting tokens. Try again shortly."), retry_after=10)
    try:
        yield
    finally:
        _slots.release()
