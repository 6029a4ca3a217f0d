"""Serializers of datasets: responses, uploads, previews and token counts."""

from django.utils.translation import gettext_lazy as _
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from training.datasets import descriptions, row_files, split
from training.models import Dataset, Format

MAX_PREVIEW_ROWS, DEFAULT_SEED, MAX_SEED = 50, 42, 2**31 - 1
MAX_SHOWN_CHARACTERS = 2000
MAX_LENGTH = 1_000_000  # tokens, as in a recipe


class DatasetSerializer(serializers.ModelSerializer):
    """`description` says what file it was; `held_out_rows` are not trained on, but used for evaluation.

    `ignored_fields` maps names without a meaning here to the rows that have them; of `untaught_rows` (weight 0) nothing
    is learnt.
    """

    tenant = serializers.CharField(source="tenant.slug")
    description = serializers.SerializerMethodField()
    held_out_rows = serializers.SerializerMethodField()
    untaught_rows = serializers.SerializerMethodField()
    ignored_fields = serializers.SerializerMethodField()

    class Meta:
        model = Dataset
        fields = [
            "id", "name", "version", "tenant", "description", "format", "rows", "held_out_rows", "untaught_rows",
            "ignored_fields", "characters", "size_bytes", "sha256", "created_at",
        ]  # fmt: skip

    def get_description(self, dataset: Dataset) -> str:
        return descriptions.describe_dataset(dataset)

    def get_untaught_rows(self, dataset: Dataset) -> int:
        return dataset.origin.get("untaught_rows", 0)

    @extend_schema_field(serializers.DictField(child=serializers.IntegerField()))
    def get_ignored_fields(self, dataset: Dataset) -> dict[str, int]:
        return dataset.origin.get("ignored_fields", {})

    def get_held_out_rows(self, dataset) -> int:
        return split.held_out_count(dataset.rows)


class UploadSerializer(serializers.Serializer):
    """A form with a file of JSON lines, a JSON list, CSV or TSV; `name` defaults to the file's name."""

    file = serializers.FileField()
    name = serializers.RegexField(
        r"^\w[\w .-]*\Z",
        max_length=100,
        required=False,
        error_messages={"invalid": _("A name holds letters, digits, spaces, dots, hyphens and underscores.")},
    )
    base_model = serializers.CharField(
        max_length=200, required=False, help_text=_("A model that is to be taught: rows too long for it are refused.")
    )

    def to_internal_value(self, data):
        file = data.get("file")
        if not data.get("name") and hasattr(file, "name"):
            data = {**data.dict(), "name": row_files.without_suffix(file.name)}
        return super().to_internal_value(data)


class PreviewQuerySerializer(serializers.Serializer):
    """`seed` chooses the rows that are held out."""

    rows = serializers.IntegerField(min_value=1, max_value=MAX_PREVIEW_ROWS, default=5)
    seed = serializers.IntegerField(min_value=0, max_value=MAX_SEED, default=DEFAULT_SEED)


class TaughtMessageSerializer(serializers.Serializer):
    """Long texts are cut. Only messages that are `taught` are learnt; the others are read."""

    role = serializers.CharField()
    content = serializers.SerializerMethodField()
    taught = serializers.BooleanField()

    def get_content(self, message) -> str:
        text = message["content"]
        return text if len(text) <= MAX_SHOWN_CHARACTERS else text[:MAX_SHOWN_CHARACTERS] + "…"


class PreviewRowSerializer(serializers.Serializer):
    """A row as the conversation that it trains, in any format. `line` is that of the dataset's JSON lines."""

    line = serializers.IntegerField()
    held_out = serializers.BooleanField()
    messages = TaughtMessageSerializer(many=True)


class PreviewSerializer(serializers.Serializer):
    description = serializers.CharField()
    format = serializers.ChoiceField(choices=Format.choices)
    rows = PreviewRowSerializer(many=True)


class TokensQuerySerializer(serializers.Serializer):
    base_model = serializers.CharField(max_length=200, help_text=_("The model that is to be taught."))
    max_seq_length = serializers.IntegerField(
        min_value=1,
        max_value=MAX_LENGTH,
        required=False,
        help_text=_("That of the recipe; by default as long as the model's context."),
    )


class TokensSerializer(serializers.Serializer):
    """Counts of the first `rows`; `learnt_tokens` are the assistant's. `too_long`: line → tokens, if above `limit`.

    `rows_cut` would be learnt without their end; of `rows_left_out` nothing would be learnt.
    """

    rows = serializers.IntegerField()
    tokens = serializers.IntegerField()
    learnt_tokens = serializers.IntegerField()
    longest = serializers.IntegerField()
    limit = serializers.IntegerField()
    rows_cut = serializers.IntegerField()
    rows_left_out = serializers.IntegerField()
    too_long_rows = serializers.IntegerField()
    too_long = serializers.DictField(child=serializers.IntegerField())
