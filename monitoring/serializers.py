"""What the front door and the health routes answer, for /openapi.json. A component is `UP` or `DOWN`."""

from rest_framework import serializers


class RootSerializer(serializers.Serializer):
    message = serializers.CharField()
    version = serializers.CharField()
    models_url = serializers.CharField()
    docs_url = serializers.CharField()


class HealthSerializer(serializers.Serializer):
    """`healthy`, or `degraded` while the database is away."""

    status = serializers.CharField()
    models_count = serializers.IntegerField()
    running_models = serializers.IntegerField()


class _Answer(serializers.Serializer):
    status = serializers.CharField()
    timestamp = serializers.CharField()


class ComponentWordsSerializer(serializers.Serializer):
    gateway = serializers.CharField()
    coordinator = serializers.CharField()
    redis = serializers.CharField()
    database = serializers.CharField()


class ComponentsSerializer(_Answer):
    components = ComponentWordsSerializer()


class ComponentSerializer(serializers.Serializer):
    status = serializers.CharField()
    details = serializers.DictField()


class ComponentDetailsSerializer(_Answer):
    components = serializers.DictField(child=ComponentSerializer())
