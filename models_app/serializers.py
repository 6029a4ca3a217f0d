"""Models as the service document shows them. Writable fields are named one by one."""

from rest_framework import serializers

from models_app.models import Mode, Model, Visibility


class ModelSerializer(serializers.ModelSerializer):
    """`status` and what follows it come from the app that runs models, through the view's context."""

    aliases = serializers.SlugRelatedField(slug_field="name", many=True, read_only=True)
    tenant = serializers.CharField(source="tenant.slug", read_only=True)

    class Meta:
        model = Model
        fields = [
            "id", "name", "display_name", "description", "framework", "mode", "visibility", "tenant", "aliases", "priority",
            "config", "resource_requirements", "tags", "auto_start", "pinned", "idle_timeout", "wait_timeout", "created_at",
            "updated_at",
        ]  # fmt: skip

    def to_representation(self, model):
        return super().to_representation(model) | self.context["statuses"][model.pk]


class WriteModelSerializer(serializers.ModelSerializer):
    """What a client may send. Everything is optional on change."""

    name = serializers.CharField(max_length=200, trim_whitespace=False)
    aliases = serializers.ListField(child=serializers.CharField(max_length=200), max_length=20, required=False)
    config = serializers.JSONField(default=dict)
    resource_requirements = serializers.JSONField(default=dict)
    tags = serializers.ListField(child=serializers.CharField(max_length=50), max_length=50, required=False)
    mode = serializers.ChoiceField(choices=Mode.choices, required=False)
    visibility = serializers.ChoiceField(choices=Visibility.choices, required=False)
    idle_timeout = serializers.IntegerField(min_value=0, max_value=31_536_000, required=False)
    wait_timeout = serializers.IntegerField(min_value=1, max_value=3600, required=False)

    class Meta:
        model = Model
        fields = [
            "name", "display_name", "description", "framework", "mode", "visibility", "aliases", "priority", "config",
            "resource_requirements", "tags", "auto_start", "pinned", "idle_timeout", "wait_timeout",
        ]  # fmt: skip


class CreatedSerializer(serializers.Serializer):
    id = serializers.CharField()
    name = serializers.CharField()
    status = serializers.CharField()
    message = serializers.CharField()
    warnings = serializers.ListField(child=serializers.CharField(), required=False)


class MessageSerializer(serializers.Serializer):
    message = serializers.CharField()
