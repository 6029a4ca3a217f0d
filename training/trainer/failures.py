"""Errors that end a training for good. Their messages are for the tenant and name no path of this machine."""

import errno
import re

DISK_FULL = "There is no room left on the disk."
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# Messages of torch and safetensors, which write files themselves.
FULL_WORDS = re.compile(
    r"os error (28|122|27)\b|PytorchStreamWriter failed writing|unexpected pos \d+ vs|No space left|File too large"
)
MEMORY_WORDS = re.compile(r"[Oo]ut of memory|can't allocate memory|Unable to allocate")
NO_MEMORY = "The device's memory does not hold this training: lower batchSize, maxSeqLength or the rank."


class Refused(Exception):
    """A retry cannot fix it. `field` is a field of the recipe, "dataset" or "base_model"."""

    def __init__(self, reason: str, field: str | None = None):
        super().__init__(reason)
        self.reason, self.field = reason, field


def explain(error: Exception) -> Refused | None:
    """None for a bug or an accident; the log has the traceback."""
    for cause in _causes(error):
        if isinstance(cause, Refused):
            return cause
        if (isinstance(cause, OSError) and cause.errno in FULL) or FULL_WORDS.search(str(cause)):
            return Refused(DISK_FULL)
        if isinstance(cause, MemoryError) or MEMORY_WORDS.search(str(cause)):
            return Refused(NO_MEMORY, "batch_size")
    return None


def _causes(error: BaseException | None):
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
