"""Queries and replies of the log routes."""

from rest_framework import serializers

from inference.logs.stream import MAX_LINES

DEFAULT_LINES = 100
MAX_MINUTES = 60 * 24 * 366


class LogQuerySerializer(serializers.Serializer):
    """`last_event_id` is for a new EventSource, which cannot send the header Last-Event-ID."""

    lines = serializers.IntegerField(min_value=1, max_value=MAX_LINES, default=DEFAULT_LINES)
    follow = serializers.BooleanField(default=False)
    last_event_id = serializers.CharField(required=False, max_length=40)


class StreamQuerySerializer(serializers.Serializer):
    """By default all stored lines."""

    lines = serializers.IntegerField(min_value=1, max_value=MAX_LINES, default=MAX_LINES)
    last_event_id = serializers.CharField(required=False, max_length=40)


class ClearQuerySerializer(serializers.Serializer):
    """0 clears all lines."""

    keep_minutes = serializers.IntegerField(min_value=0, max_value=MAX_MINUTES, default=0)


class LogLineSerializer(serializers.Serializer):
    timestamp = serializers.CharField()
    level = serializers.CharField()
    message = serializers.CharField()
    instance_id = serializers.CharField()
    replica = serializers.IntegerField()


class LogsSerializer(serializers.Serializer):
    logs = LogLineSerializer(many=True)


class LogStatsSerializer(serializers.Serializer):
    total_models = serializers.IntegerField()
    total_log_entries = serializers.IntegerField()
    models_with_logs = serializers.IntegerField()


class LogStatsReplySerializer(serializers.Serializer):
    success = serializers.BooleanField()
    stats = LogStatsSerializer()


class ClearedSerializer(serializers.Serializer):
    success = serializers.BooleanField()
    message = serializers.CharField()
