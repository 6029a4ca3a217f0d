"""Serializers of datasets: responses, uploads, previews and token counts."""

from django.utils.translation import gettext_lazy as _
from rest_framework import serializers

from training.datasets import split
from training.models import Dataset, Format

MAX_PREVIEW_ROWS, DEFAULT_SEED, MAX_SEED = 50, 42, 2**31 - 1
MAX_SHOWN_CHARACTERS = 2000


class DatasetSerializer(serializers.ModelSerializer):
    """`held_out_rows` are not trained on, but used for evaluation."""

    tenant = serializers.CharField(source="tenant.slug")
    held_out_rows = serializers.SerializerMethodField()

    class Meta:
        model = Dataset
        fields = [
            "id", "name", "version", "tenant", "format", "rows", "held_out_rows", "characters", "size_bytes", "sha256",
            "created_at",
        ]  # fmt: skip

    def get_held_out_rows(self, dataset) -> int:
        return split.held_out_count(dataset.rows)


class UploadSerializer(serializers.Serializer):
    """A form with a JSONL file; `name` defaults to the file's name."""

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
            data = {**data.dict(), "name": file.name.removesuffix(".jsonl")}
        return super().to_internal_value(data)


class PreviewQuerySerializer(serializers.Serializer):
    """`seed` chooses the rows that are held out."""

    rows = serializers.IntegerField(min_value=1, max_value=MAX_PREVIEW_ROWS, default=5)
    seed = serializers.IntegerField(min_value=0, max_value=MAX_SEED, default=DEFAULT_SEED)


class TaughtMessageSerializer(serializers.Serializer):
    """Long texts are cut."""

    role = serializers.CharField()
    content = serializers.SerializerMethodField()

    def get_content(self, message) -> str:
        text = message["content"]
        return text if len(text) <= MAX_SHOWN_CHARACTERS else text[:MAX_SHOWN_CHARACTERS] + "…"


class PreviewRowSerializer(serializers.Serializer):
    """A row as the conversation that it trains, in any format."""

    line = serializers.IntegerField()
    held_out = serializers.BooleanField()
    messages = TaughtMessageSerializer(source="conversation", many=True)


class PreviewSerializer(serializers.Serializer):
    format = serializers.ChoiceField(choices=Format.choices)
    rows = PreviewRowSerializer(many=True)


class TokensQuerySerializer(serializers.Serializer):
    base_model = serializers.CharField(max_length=200, help_text=_("The model that is to be taught."))


class TokensSerializer(serializers.Serializer):
    """Counts of the first `rows`; `learnt_tokens` are the assistant's. `too_long`: line → tokens, if above `limit`."""

    rows = serializers.IntegerField()
    tokens = serializers.IntegerField()
    learnt_tokens = serializers.IntegerField()
    longest = serializers.IntegerField()
    limit = serializers.IntegerField()
    too_long_rows = serializers.IntegerField()
    too_long = serializers.DictField(child=serializers.IntegerField())
