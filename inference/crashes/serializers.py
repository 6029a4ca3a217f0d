"""Replies of the crash route."""

from rest_framework import serializers


class CauseSerializer(serializers.Serializer):
    """`title` and `advice` are in the caller's language."""

    cause = serializers.CharField()
    title = serializers.CharField()
    advice = serializers.CharField()
    count = serializers.IntegerField()
    last_at = serializers.DateTimeField()


class CrashSerializer(serializers.Serializer):
    """`launch` (arguments and environment, secrets left out) and `memory.devices` are operators'; sizes in bytes."""

    id = serializers.IntegerField()
    instance_id = serializers.CharField(allow_null=True)
    generation = serializers.IntegerField()
    cause = serializers.CharField()
    reason = serializers.CharField()
    exit_code = serializers.IntegerField(allow_null=True)
    exit_signal = serializers.IntegerField(allow_null=True)
    log_tail = serializers.ListField(child=serializers.CharField())
    launch = serializers.DictField(allow_null=True)
    memory = serializers.DictField()
    started_at = serializers.DateTimeField(allow_null=True)
    ended_at = serializers.DateTimeField()


class CrashesSerializer(serializers.Serializer):
    causes = CauseSerializer(many=True)
    crashes = CrashSerializer(many=True)
