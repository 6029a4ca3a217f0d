"""Models in the form of the service API. Writable fields are listed explicitly."""

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from models_app import options, profiles
from models_app.models import MAX_REPLICAS, Mode, Model, Visibility


@extend_schema_field(options.schema(*options.ENGINES.values()))
class ConfigField(serializers.DictField):
    """Engine options and sampling defaults; models_app/options.py checks them."""


@extend_schema_field(options.schema(options.RESOURCE_TABLE))
class ResourcesField(serializers.DictField):
    """What the model requires of the machine; models_app/options.py checks it."""


class ReplicasSerializer(serializers.Serializer):
    """How many instances it has while it runs, and how many of them serve now."""

    wanted = serializers.IntegerField()
    ready = serializers.IntegerField()


@extend_schema_field({"oneOf": [{"type": "integer", "minimum": 1, "maximum": MAX_REPLICAS}, {"type": "object"}]})
class ReplicasField(serializers.IntegerField):
    """A number; the object of a reply, with `wanted`, is accepted too."""

    def to_internal_value(self, data):
        return super().to_internal_value(data.get("wanted", "") if isinstance(data, dict) else data)


@extend_schema_field(profiles.schema())
class ProfilesField(serializers.JSONField):
    """Device configurations; models_app/profiles.py checks them. Only operators see machine names."""

    def to_representation(self, value):
        request = self.context.get("request")
        if request is not None and request.auth.is_operator:
            return value
        return [{name: content for name, content in entry.items() if name != "node"} for entry in value]


class ResourceUsageSerializer(serializers.Serializer):
    """The memory reserved for the model, in MiB; `cpu_cores` is null if it is not measured."""

    gpu_memory = serializers.IntegerField()
    cpu_cores = serializers.FloatField(allow_null=True)
    memory = serializers.IntegerField()


class PerformanceSerializer(serializers.Serializer):
    """Of the last hour: seconds, requests per second, share of failed requests."""

    avg_response_time = serializers.FloatField()
    requests_per_second = serializers.FloatField()
    error_rate = serializers.FloatField()


class ModelSerializer(serializers.ModelSerializer):
    """`running` is what the app that runs models reports; the view attaches it."""

    tenant = serializers.CharField(source="tenant.slug")
    aliases: serializers.SlugRelatedField = serializers.SlugRelatedField(slug_field="name", many=True, read_only=True)
    config = ConfigField()
    resource_requirements = ResourcesField()
    profiles = ProfilesField()
    status = serializers.CharField(source="running.status")
    health = serializers.CharField(source="running.health")
    replicas = ReplicasSerializer(source="running.replicas")
    resource_usage = ResourceUsageSerializer(source="running.resource_usage")
    performance_stats = PerformanceSerializer(source="running.performance_stats")

    class Meta:
        model = Model
        fields = [
            "id", "name", "display_name", "description", "framework", "mode", "status", "health", "visibility",
            "tenant", "aliases", "priority", "replicas", "created_at", "updated_at", "config", "resource_requirements",
            "profiles", "resource_usage", "performance_stats", "tags", "auto_start", "pinned", "idle_timeout",
            "wait_timeout",
        ]  # fmt: skip


class WriteModelSerializer(serializers.ModelSerializer):
    """What a client may send. Everything is optional on change."""

    name = serializers.CharField(max_length=200, trim_whitespace=False)
    aliases = serializers.ListField(
        child=serializers.CharField(max_length=200, trim_whitespace=False), max_length=20, required=False
    )
    description = serializers.CharField(max_length=10_000, allow_blank=True, required=False)
    config = ConfigField(default=dict)
    resource_requirements = ResourcesField(default=dict)
    profiles = ProfilesField(required=False)
    tags = serializers.ListField(child=serializers.CharField(max_length=50), max_length=50, required=False)
    mode = serializers.ChoiceField(choices=Mode.choices, required=False)
    visibility = serializers.ChoiceField(choices=Visibility.choices, required=False)
    replicas = ReplicasField(min_value=1, max_value=MAX_REPLICAS, required=False)
    idle_timeout = serializers.IntegerField(min_value=0, max_value=31_536_000, required=False)
    wait_timeout = serializers.IntegerField(min_value=1, max_value=3600, required=False)

    class Meta:
        model = Model
        fields = [
            "name", "display_name", "description", "framework", "mode", "visibility", "aliases", "priority", "config",
            "resource_requirements", "profiles", "replicas", "tags", "auto_start", "pinned", "idle_timeout",
            "wait_timeout",
        ]  # fmt: skip


class CreatedSerializer(serializers.Serializer):
    """`estimate` is that of /api/models/{ref}/estimate; null if files or engine are missing."""

    id = serializers.CharField()
    name = serializers.CharField()
    status = serializers.CharField()
    message = serializers.CharField()
    estimate = serializers.DictField(allow_null=True)
    warnings = serializers.ListField(child=serializers.CharField(), required=False)


class DeleteSerializer(serializers.Serializer):
    """`force` ends a running model first. It may be in the query or in the body."""

    force = serializers.BooleanField(default=False)


class MessageSerializer(serializers.Serializer):
    message = serializers.CharField()
