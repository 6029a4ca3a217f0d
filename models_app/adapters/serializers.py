"""Adapters and their versions as the API shows them."""

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from models_app.models import Adapter, AdapterVersion

IN_USE, ON_TRIAL, SUPERSEDED = "in_use", "on_trial", "superseded"
METRICS = ("loss", "perplexity")


class DatasetRefSerializer(serializers.Serializer):
    """The dataset version of the training; it may have been deleted."""

    id = serializers.CharField(source="dataset_id")
    name = serializers.CharField(source="dataset_name")
    version = serializers.IntegerField(source="dataset_version", allow_null=True)


class ComparisonSerializer(serializers.Serializer):
    """One metric on the held-out rows; null if no rows were held out."""

    before = serializers.FloatField(allow_null=True)
    after = serializers.FloatField(allow_null=True)


class SampleSerializer(serializers.Serializer):
    """The prompt, the expected answer, and the answers before and after the training."""

    prompt = serializers.ListField(child=serializers.DictField())
    expected = serializers.CharField(allow_blank=True)
    before = serializers.CharField(allow_blank=True, allow_null=True)
    after = serializers.CharField(allow_blank=True, allow_null=True)


class EvaluationSerializer(serializers.Serializer):
    """Before and after side by side."""

    loss = ComparisonSerializer()
    perplexity = ComparisonSerializer()
    samples = SampleSerializer(many=True)

    def to_representation(self, evaluation):
        sides = {side: evaluation.get(side) or {} for side in ("before", "after")}
        compared = {name: {side: metrics.get(name) for side, metrics in sides.items()} for name in METRICS}
        return {**compared, "samples": evaluation.get("samples") or []}


class LoadedSerializer(serializers.Serializer):
    """Running replicas of the base that have it loaded, and the error of an engine that refused it."""

    replicas = serializers.IntegerField()
    error = serializers.CharField(allow_blank=True)


class VersionSerializer(serializers.ModelSerializer):
    """`model` is the name that selects exactly this version in requests, while it is served.

    `context["loaded"]` holds the reports of replicas, per version.
    """

    model = serializers.SerializerMethodField()
    status = serializers.SerializerMethodField(help_text=f"{IN_USE}, {ON_TRIAL} or {SUPERSEDED}")
    dataset = DatasetRefSerializer(source="*")
    evaluation = EvaluationSerializer(allow_null=True)
    loaded = serializers.SerializerMethodField()

    class Meta:
        model = AdapterVersion
        fields = [
            "id", "number", "model", "status", "rank", "size_bytes", "sha256", "job_id", "dataset", "evaluation",
            "loaded", "published_at", "created_at",
        ]  # fmt: skip

    def get_model(self, version) -> str:
        return f"{version.adapter.name}@{version.number}"

    def get_status(self, version) -> str:
        if version.adapter.current_id == version.pk:
            return IN_USE
        return ON_TRIAL if version.published_at is None else SUPERSEDED

    @extend_schema_field(LoadedSerializer)
    def get_loaded(self, version) -> dict:
        reports = self.context["loaded"].get(version.pk, [])
        errors = [report["reason"] for report in reports if report["state"] == "refused"]
        replicas = sum(report["state"] == "loaded" for report in reports)
        return LoadedSerializer({"replicas": replicas, "error": errors[0] if errors else ""}).data


class AdapterSerializer(serializers.ModelSerializer):
    """`model_names` are its names in requests; `version` is the one in use, null while it is not published."""

    tenant = serializers.CharField(source="tenant.slug")
    base_model = serializers.CharField(source="base_model.name")
    model_names = serializers.SerializerMethodField()
    published = serializers.SerializerMethodField()
    version = serializers.IntegerField(source="current.number", allow_null=True, default=None)
    newest_version = serializers.IntegerField(source="newest", allow_null=True)

    class Meta:
        model = Adapter
        fields = [
            "id", "name", "model_names", "tenant", "base_model", "base_model_id", "published", "version",
            "newest_version", "created_at", "updated_at",
        ]  # fmt: skip

    def get_model_names(self, adapter) -> list[str]:
        return [adapter.name, f"{adapter.base_model.name}:{adapter.name}"]

    def get_published(self, adapter) -> bool:
        return adapter.current_id is not None


class PublishSerializer(serializers.Serializer):
    """By default the newest version."""

    version = serializers.IntegerField(min_value=1, max_value=2**31 - 1, required=False)


class RollBackSerializer(serializers.Serializer):
    """An earlier version than the one in use."""

    version = serializers.IntegerField(min_value=1, max_value=2**31 - 1)


class DownloadSerializer(serializers.Serializer):
    """By default the version in use, else the newest."""

    version = serializers.IntegerField(min_value=1, max_value=2**31 - 1, required=False)
