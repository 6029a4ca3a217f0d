"""Operators' page of data sets, to read only: an upload goes through REST."""

from django.contrib import admin
from django.template.defaultfilters import filesizeformat
from django.utils.translation import gettext_lazy as _
from unfold.decorators import display

from accounts.console import ReadOnlyAdmin
from training.models import Dataset


@admin.register(Dataset)
class DatasetAdmin(ReadOnlyAdmin):
    list_display = ["name", "version", "tenant", "format", "rows", "show_size", "created_by", "created_at"]
    list_filter = ["tenant", "format"]
    search_fields = ["name", "sha256"]
    list_select_related = ["tenant", "created_by"]

    @display(description=_("Size"))
    def show_size(self, dataset):
        return filesizeformat(dataset.size_bytes)
