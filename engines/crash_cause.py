"""Why an engine ended unasked."""

from django.db import models
from django.utils.translation import gettext_lazy as _


class Cause(models.TextChoices):
    """What an operator can do about each is in `inference/crashes/advice.py`."""

    OUT_OF_MEMORY = "out_of_memory", _("Out of memory")
    BAD_OPTION = "bad_option", _("An option that the engine refuses")
    MISSING_FILE = "missing_file", _("A file is missing or unreadable")
    BROKEN_WEIGHTS = "broken_weights", _("Broken or unfitting weights")
    DISK_FULL = "disk_full", _("The disk is full")
    KILLED = "killed", _("Killed from outside")
    TIMED_OUT = "timed_out", _("Not ready in time")
    UNKNOWN = "unknown", _("Unknown")
