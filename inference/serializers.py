"""Bodies and replies of the routes that run models."""

from rest_framework import serializers

from inference.models import Task


class StartSerializer(serializers.Serializer):
    """`timeout` bounds the start, in seconds; `force` replaces a failed one."""

    force = serializers.BooleanField(default=False)
    timeout = serializers.IntegerField(min_value=1, max_value=7200, required=False, allow_null=True)


class StopSerializer(serializers.Serializer):
    """`timeout` bounds the wait for requests in flight, in seconds; `force` skips it."""

    force = serializers.BooleanField(default=False)
    timeout = serializers.IntegerField(min_value=0, max_value=3600, required=False, allow_null=True)


class AcceptedSerializer(serializers.Serializer):
    success = serializers.BooleanField()
    message = serializers.CharField()
    task_id = serializers.CharField()
    status = serializers.CharField()


class TaskSerializer(serializers.ModelSerializer):
    task_id = serializers.CharField(source="id")
    model_name = serializers.CharField(source="model.name")

    class Meta:
        model = Task
        fields = ["task_id", "kind", "status", "model_id", "model_name", "error", "created_at", "finished_at"]


class UsageQuerySerializer(serializers.Serializer):
    """`start_date` and `end_date` are days in UTC, both included; without them the last 30 days."""

    group_by = serializers.ChoiceField(choices=["tenant", "key", "model", "day"], default="model")
    start_date = serializers.DateField(required=False)
    end_date = serializers.DateField(required=False)
    model_id = serializers.CharField(required=False, max_length=48)
    key_id = serializers.CharField(required=False, max_length=48)
