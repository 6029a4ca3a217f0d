"""What models are taught with: data sets, each upload of a name a version of its own."""

from django.db import models
from django.utils.translation import gettext_lazy as _

from core import ids
from core.tenancy import TenantModel


class Format(models.TextChoices):
    MESSAGES = "messages", _("Conversations")
    PROMPT = "prompt", _("Prompt and completion")
    INSTRUCTION = "instruction", _("Instruction, input and output")


class Dataset(TenantModel):
    """One version of a data set, checked row by row; its file never changes (training/storage.py)."""

    id = models.CharField(primary_key=True, max_length=ids.LENGTH, default=ids.new_dataset_id, editable=False)
    name = models.CharField(max_length=100)
    version = models.PositiveIntegerField()
    format = models.CharField(max_length=12, choices=Format)
    rows = models.PositiveIntegerField()
    characters = models.PositiveBigIntegerField()
    size_bytes = models.PositiveBigIntegerField()
    sha256 = models.CharField(max_length=64)
    created_by = models.ForeignKey("accounts.User", null=True, on_delete=models.SET_NULL, related_name="+")

    class Meta:
        verbose_name, verbose_name_plural = _("data set"), _("Data sets")
        ordering = ["-created_at", "id"]
        constraints = [models.UniqueConstraint(fields=["tenant", "name", "version"], name="one_dataset_per_version")]

    def __str__(self):
        return f"{self.name} v{self.version}"
