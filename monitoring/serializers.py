"""Requests and responses of the root, health and metrics routes. A component is `UP` or `DOWN`."""

from datetime import UTC, datetime

from django.utils.translation import gettext as _
from rest_framework import serializers

from monitoring.figures.levels import LEVELS_BY_NAME
from monitoring.figures.reports import METRIC_TYPES, TIME_RANGES

EARLIEST_TIME = datetime(2000, 1, 1, tzinfo=UTC)


class RootSerializer(serializers.Serializer):
    message = serializers.CharField()
    version = serializers.CharField()
    models_url = serializers.CharField()
    docs_url = serializers.CharField()


class HealthSerializer(serializers.Serializer):
    """`healthy`, or `degraded` while the database is unreachable."""

    status = serializers.CharField()
    models_count = serializers.IntegerField()
    running_models = serializers.IntegerField()


class _HealthReportSerializer(serializers.Serializer):
    status = serializers.CharField()
    timestamp = serializers.CharField()


class ComponentStatusesSerializer(serializers.Serializer):
    gateway = serializers.CharField()
    coordinator = serializers.CharField()
    redis = serializers.CharField()
    database = serializers.CharField()


class ComponentsSerializer(_HealthReportSerializer):
    components = ComponentStatusesSerializer()


class ComponentSerializer(serializers.Serializer):
    status = serializers.CharField()
    details = serializers.DictField()


class ComponentDetailsSerializer(_HealthReportSerializer):
    components = serializers.DictField(child=ComponentSerializer())


class MetricsQuerySerializer(serializers.Serializer):
    """Default range: the last hour. Default `interval`: the finest roll-up that covers the range in 750 points."""

    start_time = serializers.DateTimeField(required=False)
    end_time = serializers.DateTimeField(required=False)
    metric_type = serializers.ChoiceField(choices=list(METRIC_TYPES), required=False)
    interval = serializers.ChoiceField(choices=list(LEVELS_BY_NAME), required=False)

    def validate(self, attrs):
        start, end = attrs.get("start_time"), attrs.get("end_time")
        for name, value in (("start_time", start), ("end_time", end)):
            if value and value < EARLIEST_TIME:
                raise serializers.ValidationError({name: _("It lies before the year 2000.")})
        if start and end and start >= end:
            raise serializers.ValidationError({"end_time": _("It must lie after start_time.")})
        return attrs


class MetricsSerializer(serializers.Serializer):
    """Points and summary have a field for each metric, null where nothing was measured. `interval` is the one used:
    data that is older than the retention of a fine roll-up comes from a coarser one."""

    interval = serializers.CharField()
    metrics = serializers.ListField(child=serializers.DictField())
    summary = serializers.DictField()


class PerformanceQuerySerializer(serializers.Serializer):
    model_id = serializers.CharField(required=False, max_length=300)
    time_range = serializers.ChoiceField(choices=list(TIME_RANGES), default="24h")


class ModelPerformanceSerializer(serializers.Serializer):
    """Times in seconds, null without requests. Percentiles are exact to the width of a histogram bucket."""

    model_id = serializers.CharField()
    model_name = serializers.CharField()
    total_requests = serializers.IntegerField()
    successful_requests = serializers.IntegerField()
    failed_requests = serializers.IntegerField()
    avg_response_time = serializers.FloatField(allow_null=True)
    max_response_time = serializers.FloatField(allow_null=True)
    min_response_time = serializers.FloatField(allow_null=True)
    p50_response_time = serializers.FloatField(allow_null=True)
    p95_response_time = serializers.FloatField(allow_null=True)
    p99_response_time = serializers.FloatField(allow_null=True)
    avg_time_to_first_token = serializers.FloatField(allow_null=True)
    p50_time_to_first_token = serializers.FloatField(allow_null=True)
    p95_time_to_first_token = serializers.FloatField(allow_null=True)
    p99_time_to_first_token = serializers.FloatField(allow_null=True)
    avg_queue_time = serializers.FloatField(allow_null=True)
    prompt_tokens = serializers.IntegerField()
    completion_tokens = serializers.IntegerField()
    requests_per_second = serializers.FloatField()
    error_rate = serializers.FloatField()


class SystemMeansSerializer(serializers.Serializer):
    avg_cpu_percent = serializers.FloatField(allow_null=True)
    avg_memory_percent = serializers.FloatField(allow_null=True)
    avg_gpu_utilization = serializers.FloatField(allow_null=True)


class PerformanceReportSerializer(serializers.Serializer):
    time_range = serializers.CharField()
    models = ModelPerformanceSerializer(many=True)
    system = SystemMeansSerializer()


class ModelCountsSerializer(serializers.Serializer):
    """`stopped` includes models that never ran."""

    total = serializers.IntegerField()
    running = serializers.IntegerField()
    stopped = serializers.IntegerField()
    error = serializers.IntegerField()
    starting = serializers.IntegerField()
    stopping = serializers.IntegerField()


class ResourcesSerializer(serializers.Serializer):
    """Means over all machines; null before the first sample."""

    cpu_percent = serializers.FloatField(allow_null=True)
    memory_percent = serializers.FloatField(allow_null=True)
    disk_percent = serializers.FloatField(allow_null=True)


class GpuSummarySerializer(serializers.Serializer):
    """Memory in MiB. Only operators see single GPUs; others get one entry for all GPUs together."""

    id = serializers.IntegerField()
    name = serializers.CharField()
    utilization = serializers.FloatField(allow_null=True)
    memory_used = serializers.IntegerField()
    memory_total = serializers.IntegerField()
    temperature = serializers.FloatField(allow_null=True)
    node = serializers.CharField(required=False)


class SystemStatusSerializer(serializers.Serializer):
    """`uptime` is the age in seconds of the process that answers."""

    status = serializers.ChoiceField(choices=["healthy", "degraded"])
    version = serializers.CharField()
    uptime = serializers.IntegerField()
    models = ModelCountsSerializer()
    resources = ResourcesSerializer()
    gpu = GpuSummarySerializer(many=True)


class GpuProcessSerializer(serializers.Serializer):
    """`name` is empty for processes in other containers. `memory_usage` (MiB) is null if not reported."""

    pid = serializers.IntegerField()
    name = serializers.CharField()
    memory_usage = serializers.IntegerField(allow_null=True)


class GpuDetailsSerializer(GpuSummarySerializer):
    """Power in watts, temperature in °C; null for values that the device does not report."""

    driver_version = serializers.CharField()
    cuda_version = serializers.CharField()
    memory_free = serializers.IntegerField()
    power_usage = serializers.FloatField(allow_null=True)
    power_limit = serializers.FloatField(allow_null=True)
    processes = GpuProcessSerializer(many=True)
    timestamp = serializers.DateTimeField()


class GpuListSerializer(serializers.Serializer):
    gpus = GpuDetailsSerializer(many=True)
