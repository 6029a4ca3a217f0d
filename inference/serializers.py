"""Request bodies and replies of the routes for running models."""

from django.utils.translation import gettext as _
from rest_framework import serializers

from inference.models import DeviceKind, Task
from inference.placement import resource_options
from models_app.serializers import ModelSerializer, ReplicasSerializer


class StartSerializer(serializers.Serializer):
    """`timeout` bounds the start, in seconds; `force` replaces a failed one."""

    force = serializers.BooleanField(default=False)
    timeout = serializers.IntegerField(min_value=1, max_value=7200, required=False, allow_null=True)


class StopSerializer(serializers.Serializer):
    """`timeout` bounds the wait for requests in flight, in seconds; `force` skips it."""

    force = serializers.BooleanField(default=False)
    timeout = serializers.IntegerField(min_value=0, max_value=3600, required=False, allow_null=True)


class AcceptedSerializer(serializers.Serializer):
    """The task's progress is at /api/tasks/{task_id}."""

    success = serializers.BooleanField()
    message = serializers.CharField()
    task_id = serializers.CharField()
    status = serializers.CharField()
    warnings = serializers.ListField(child=serializers.CharField(), required=False)


class RestartedSerializer(serializers.Serializer):
    """`failed_models` maps the name of each model that could not be restarted to the reason."""

    success = serializers.BooleanField()
    message = serializers.CharField()
    started_models = serializers.ListField(child=serializers.CharField())
    failed_models = serializers.DictField(child=serializers.CharField(), required=False)


class StoppedSerializer(serializers.Serializer):
    """The models are stopping; each ends after its requests in flight."""

    success = serializers.BooleanField()
    message = serializers.CharField()
    stopped_models = serializers.ListField(child=serializers.CharField())


class TaskSerializer(serializers.ModelSerializer):
    task_id = serializers.CharField(source="id")
    model_name = serializers.CharField(source="model.name")

    class Meta:
        model = Task
        fields = [
            "task_id",
            "kind",
            "status",
            "model_id",
            "model_name",
            "warning",
            "error",
            "created_at",
            "finished_at",
        ]


class ModelInfoSerializer(serializers.Serializer):
    """`pid` and `current_bat_path` (the command line) are null for all but operators."""

    model_name = serializers.CharField()
    aliases = serializers.ListField(child=serializers.CharField())
    status = serializers.CharField()
    pid = serializers.IntegerField(allow_null=True)
    idle_time_sec = serializers.IntegerField()
    mode = serializers.CharField()
    is_available = serializers.BooleanField()
    current_bat_path = serializers.CharField(allow_null=True)
    config_source = serializers.CharField(allow_null=True)
    failure_reason = serializers.CharField(allow_null=True)
    pending_requests = serializers.IntegerField()
    replicas = ReplicasSerializer()


class InfoSerializer(serializers.Serializer):
    success = serializers.BooleanField()
    model = ModelInfoSerializer()


class AllInfoSerializer(serializers.Serializer):
    success = serializers.BooleanField()
    models = serializers.DictField(child=ModelInfoSerializer())
    total_models = serializers.IntegerField()
    running_models = serializers.IntegerField()
    total_pending_requests = serializers.IntegerField()


class MemorySerializer(serializers.Serializer):
    """In MiB."""

    memory_total = serializers.IntegerField()
    memory_used = serializers.IntegerField()
    memory_free = serializers.IntegerField()


class GpuSerializer(MemorySerializer):
    """`temperature` in °C, null if the device does not report it."""

    name = serializers.CharField()
    temperature = serializers.IntegerField(allow_null=True)


class GpusSerializer(serializers.Serializer):
    device_count = serializers.IntegerField()
    devices = GpuSerializer(many=True)


class ProcessorsSerializer(MemorySerializer):
    cpu_count = serializers.IntegerField()


class CudaSerializer(serializers.Serializer):
    online = serializers.BooleanField()
    info = GpusSerializer()


class CpuSerializer(serializers.Serializer):
    online = serializers.BooleanField()
    info = ProcessorsSerializer()


class DeviceKindsSerializer(serializers.Serializer):
    cuda = CudaSerializer()
    cpu = CpuSerializer()


class DevicesSerializer(serializers.Serializer):
    success = serializers.BooleanField()
    devices = DeviceKindsSerializer()


class VersionedModelSerializer(ModelSerializer):
    """The fields of the service API and the engine API; `modelPath` is a name, never a path on the host."""

    engine = serializers.CharField()
    capabilities = serializers.ListField(child=serializers.CharField())
    maxModelLen = serializers.IntegerField(allow_null=True)
    modelPath = serializers.CharField()
    loraAdapters = serializers.ListField(child=serializers.CharField())

    class Meta(ModelSerializer.Meta):
        fields = [*ModelSerializer.Meta.fields, "engine", "capabilities", "maxModelLen", "modelPath", "loraAdapters"]


class VersionedModelsSerializer(serializers.Serializer):
    """`items` are as below /api; `models` also have the fields of the engine API."""

    models = VersionedModelSerializer(many=True)
    items = ModelSerializer(many=True)
    total = serializers.IntegerField()
    page = serializers.IntegerField()
    size = serializers.IntegerField()
    pages = serializers.IntegerField()


class UsageQuerySerializer(serializers.Serializer):
    """`start_date` and `end_date` are days in UTC, both included; by default the last 30 days."""

    group_by = serializers.ChoiceField(choices=["tenant", "key", "model", "day"], default="model")
    start_date = serializers.DateField(required=False)
    end_date = serializers.DateField(required=False)
    model_id = serializers.CharField(required=False, max_length=48)
    key_id = serializers.CharField(required=False, max_length=48)

    def validate(self, attrs):
        start, end = attrs.get("start_date"), attrs.get("end_date")
        if start and end and start > end:
            raise serializers.ValidationError({"end_date": _("It lies before start_date.")})
        return attrs


class UsageSumsSerializer(serializers.Serializer):
    requests = serializers.IntegerField()
    errors = serializers.IntegerField()  # type: ignore[assignment]  # DRF's own `errors` is not used on nested ones
    prompt_tokens = serializers.IntegerField()
    completion_tokens = serializers.IntegerField()
    cached_tokens = serializers.IntegerField()


class TokenCountsSerializer(serializers.Serializer):
    prompt_tokens = serializers.IntegerField()
    completion_tokens = serializers.IntegerField()


class UsageRowSerializer(UsageSumsSerializer):
    """Has the fields of its group; `engine` and `difference` only when grouped by model."""

    tenant_id = serializers.CharField(required=False)
    key_id = serializers.CharField(required=False, allow_null=True)
    model_id = serializers.CharField(required=False)
    model_name = serializers.CharField(required=False)
    started_on = serializers.DateField(required=False)
    engine = TokenCountsSerializer(required=False, allow_null=True)
    difference = TokenCountsSerializer(required=False, allow_null=True)


class UsageSerializer(serializers.Serializer):
    group_by = serializers.CharField()
    start_date = serializers.DateField()
    end_date = serializers.DateField()
    items = UsageRowSerializer(many=True)
    total = UsageSumsSerializer()


class CandidateSerializer(serializers.Serializer):
    """The result for one device; memory in MiB. `node` is null for all but operators."""

    profile = serializers.CharField(allow_null=True)
    node = serializers.CharField(allow_null=True)
    device = serializers.CharField()
    fits = serializers.BooleanField()
    taken = serializers.BooleanField()
    why = serializers.CharField()
    needed = serializers.IntegerField()
    free = serializers.IntegerField()
    capacity = serializers.IntegerField()


class WaySerializer(serializers.Serializer):
    """One device configuration and the memory that the model needs on it, in MiB."""

    profile = serializers.CharField(allow_null=True)
    device = serializers.ChoiceField(choices=DeviceKind.choices)
    count = serializers.IntegerField()
    source = serializers.ChoiceField(choices=resource_options.SOURCES)  # type: ignore[assignment]  # a field that is called as one of Field's arguments
    weights = serializers.IntegerField()
    overhead = serializers.IntegerField()
    kv_cache = serializers.IntegerField()
    total = serializers.IntegerField()
    per_device = serializers.IntegerField()
    main_memory = serializers.IntegerField()
    devices = CandidateSerializer(many=True)


class VictimSerializer(serializers.Serializer):
    """A model that would be evicted. A model of another tenant has no name."""

    model_id = serializers.CharField(allow_null=True)
    model_name = serializers.CharField(allow_null=True)
    priority = serializers.IntegerField()
    idle_time_sec = serializers.IntegerField()


class EstimateSerializer(serializers.Serializer):
    model_id = serializers.CharField()
    model_name = serializers.CharField()
    outcome = serializers.ChoiceField(choices=["fits", "evicts", "waits", "refused"])
    message = serializers.CharField()
    profile = serializers.CharField(allow_null=True)
    would_evict = VictimSerializer(many=True)
    ways = WaySerializer(many=True)


class HolderSerializer(serializers.Serializer):
    """An instance that held memory then: it was evicted, or `why` not. A model of another tenant has no name."""

    model_id = serializers.CharField(allow_null=True)
    model_name = serializers.CharField(allow_null=True)
    evicted = serializers.BooleanField()
    why = serializers.CharField(allow_null=True)


class DecisionSerializer(serializers.Serializer):
    """`last_asked_at` is later than `created_at` if a refused start was retried; `total` is in MiB."""

    created_at = serializers.DateTimeField()
    last_asked_at = serializers.DateTimeField()
    outcome = serializers.ChoiceField(choices=["placed", "refused", "waiting"])
    message = serializers.CharField()
    instance_id = serializers.CharField(allow_null=True)
    profile = serializers.CharField(allow_null=True)
    source = serializers.CharField(allow_null=True)  # type: ignore[assignment]  # a field that is called as one of Field's arguments
    total = serializers.IntegerField(allow_null=True)
    node = serializers.CharField(allow_null=True)
    devices = serializers.ListField(child=serializers.CharField())
    candidates = CandidateSerializer(many=True)
    holders = HolderSerializer(many=True)


class ExplanationSerializer(serializers.Serializer):
    """`stop_reason` is set only for a stop that no user requested."""

    model_id = serializers.CharField()
    model_name = serializers.CharField()
    status = serializers.CharField()
    stop_reason = serializers.CharField(allow_null=True)
    failure_reason = serializers.CharField(allow_null=True)
    decisions = DecisionSerializer(many=True)
