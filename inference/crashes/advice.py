"""What to do about each cause of a failure, in the reader's language. All surfaces take it from here."""

from typing import Protocol

from django.utils.text import format_lazy
from django.utils.translation import gettext_lazy as _

from engines.crash_cause import Cause

ADVICE = {
    Cause.OUT_OF_MEMORY: _(
        "Lower max_model_len, max_num_seqs or kv_cache_bytes, choose a smaller or quantised model, or stop another one."
    ),
    Cause.BAD_OPTION: _("Correct or remove the option in the model's config; the engine's last lines name it."),
    Cause.MISSING_FILE: _("See that the model's folder is whole and readable, and that model_path names it."),
    Cause.BROKEN_WEIGHTS: _(
        "Fetch the weights again and compare their checksums; see that this engine knows the format and architecture."
    ),
    Cause.DISK_FULL: _("Free space on the machine's disk, then start the model again."),
    Cause.KILLED: _(
        "Somebody ended the process, or the kernel did because main memory ran out: the operator finds it in the "
        "kernel's log (dmesg)."
    ),
    Cause.TIMED_OUT: _(
        "Give the start more time (timeout of the start, or default_model_timeout), or see in the last lines where "
        "it stood."
    ),
    Cause.UNKNOWN: _("Read the engine's last lines; if they do not help, start it again and follow its logs."),
}


class FailureFields(Protocol):
    """The fields of a failed instance, as a row or as the gateway has it."""

    @property
    def failure_reason(self) -> str: ...

    @property
    def failure_cause(self) -> str: ...


def failure_message(instance: FailureFields):
    """Why it failed and what to do about it, in the reader's language; empty if nothing failed."""
    if not instance.failure_reason or not instance.failure_cause:
        return instance.failure_reason
    return format_lazy("{} {}", instance.failure_reason, ADVICE[Cause(instance.failure_cause)])
