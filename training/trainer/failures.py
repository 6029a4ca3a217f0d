"""Errors that end a training for good. Their messages are for the tenant and name no path of this machine."""

import errno
import re

DISK_FULL = "There is no room left on the disk."
DISK_FULL_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# Messages of torch and safetensors, which write files themselves.
DISK_FULL_PATTERN = re.compile(
    r"os error (28|122|27)\b|PytorchStreamWriter failed writing|unexpected pos \d+ vs|No space left|File too large"
)
NO_MEMORY_PATTERN = re.compile(r"[Oo]ut of memory|can't allocate memory|Unable to allocate")
NO_MEMORY = "The device's memory does not hold this training: lower batchSize, maxSeqLength or the rank."


class TrainingRefused(Exception):
    """A retry cannot fix it. `field` is a field of the recipe, "dataset" or "base_model"."""

    def __init__(self, reason: str, field: str | None = None):
        super().__init__(reason)
        self.reason, self.field = reason, field


def explain(error: Exception) -> TrainingRefused | None:
    """None for a bug or an accident; the log has the traceback."""
    for cause in _causes(error):
        if isinstance(cause, TrainingRefused):
            return cause
        if (isinstance(cause, OSError) and cause.errno in DISK_FULL_ERRNOS) or DISK_FULL_PATTERN.search(str(cause)):
            return TrainingRefused(DISK_FULL)
        if isinstance(cause, MemoryError) or NO_MEMORY_PATTERN.search(str(cause)):
            return TrainingRefused(NO_MEMORY, "batch_size")
    return None


def _causes(error: BaseException | None):
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
