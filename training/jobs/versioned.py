"""Training in the engine API, below `/api/v1`: its own field names, messages and paths."""

from dataclasses import dataclass
from math import ceil

from django.utils.translation import gettext as _
from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.actor import Actor
from accounts.policy import Permission
from core.errors import PlatformError
from core.parsers import refuse_body, validated, validated_query
from models_app import options
from training import paths
from training.jobs import queue, recipe, services
from training.jobs.serializers import MAX_REF_LENGTH, TextField
from training.models import JobState, TrainingJob

MAX_LISTED = 1000
# our field name → the engine API's, where they differ
API_FIELD_NAMES = {
    "base_model": "baseModel", "config.model_path": "baseModel", "model_id": "baseModel", "dataset": "datasetPath",
    "adapter": "outputDir", "name": "outputDir", "recipe.max_seq_length": "hyperParams.maxSeqLength",
}  # fmt: skip


@extend_schema_field(options.schema(recipe.TABLES["hyperParams"]))
class HyperParamsField(serializers.JSONField):
    """training/jobs/recipe.py checks them."""


@extend_schema_field(options.schema(recipe.TABLES["loraConfig"]))
class LoraConfigField(serializers.JSONField):
    """training/jobs/recipe.py checks it."""


class OrderSerializer(serializers.Serializer):
    """The last part of `outputDir` names the adapter, that of `datasetPath` the dataset (its newest version)."""

    baseModel = TextField(max_length=MAX_REF_LENGTH)
    outputDir = TextField(max_length=MAX_REF_LENGTH)
    datasetPath = TextField(max_length=MAX_REF_LENGTH)
    hyperParams = HyperParamsField(required=False, allow_null=True)
    loraConfig = LoraConfigField(required=False, allow_null=True)


@dataclass(frozen=True)
class JobAnswer:
    """A job, and what was done with it."""

    job: TrainingJob
    message: str


class QueuedSerializer(serializers.Serializer):
    jobId = serializers.CharField(source="job.pk")
    status = serializers.CharField(source="job.status")
    message = serializers.CharField()
    createdAt = serializers.DateTimeField(source="job.created_at")
    warnings = serializers.ListField(child=serializers.CharField(), required=False)


class ActedSerializer(serializers.Serializer):
    jobId = serializers.CharField(source="job.pk")
    status = serializers.CharField(source="job.status")
    message = serializers.CharField()


class CurrentSerializer(serializers.Serializer):
    """`currentEpoch` counts from 1."""

    currentEpoch = serializers.SerializerMethodField()
    currentStep = serializers.IntegerField(source="step")
    totalSteps = serializers.IntegerField(source="total_steps", allow_null=True)
    loss = serializers.FloatField(allow_null=True)
    evalLoss = serializers.FloatField(source="eval_loss", allow_null=True)
    learningRate = serializers.FloatField(source="learning_rate", allow_null=True)

    def get_currentEpoch(self, job) -> int:
        return ceil(job.epoch)


class JobStatusSerializer(serializers.Serializer):
    """`message` says why a job waits or failed. `rowsCut` lose their end, of `rowsLeftOut` nothing is learnt."""

    jobId = serializers.CharField(source="pk")
    status = serializers.CharField()
    message = serializers.SerializerMethodField()
    progress = CurrentSerializer(source="*")
    elapsedTimeSeconds = serializers.SerializerMethodField()
    estimatedTimeRemainingSeconds = serializers.SerializerMethodField()
    rowsCut = serializers.IntegerField(source="rows_cut", allow_null=True)
    rowsLeftOut = serializers.IntegerField(source="rows_left_out", allow_null=True)
    createdAt = serializers.DateTimeField(source="created_at")
    startedAt = serializers.DateTimeField(source="started_at", allow_null=True)
    completedAt = serializers.DateTimeField(source="finished_at", allow_null=True)

    def get_message(self, job) -> str:
        return queue.wait_reason(job) if job.is_waiting else job.failure_reason

    def get_elapsedTimeSeconds(self, job) -> int:
        return round(job.elapsed_seconds)

    def get_estimatedTimeRemainingSeconds(self, job) -> int | None:
        return None if job.eta_seconds is None else round(job.eta_seconds)


class ListedSerializer(serializers.Serializer):
    jobId = serializers.CharField(source="pk")
    baseModel = serializers.CharField(source="base_name")
    status = serializers.CharField()
    createdAt = serializers.DateTimeField(source="created_at")
    completedAt = serializers.DateTimeField(source="finished_at", allow_null=True)


class ListQuerySerializer(serializers.Serializer):
    status = serializers.ChoiceField(choices=JobState.choices, required=False)
    limit = serializers.IntegerField(min_value=1, max_value=MAX_LISTED, default=100)
    offset = serializers.IntegerField(min_value=0, max_value=2**31 - 1, default=0)


class JobListSerializer(serializers.Serializer):
    jobs = ListedSerializer(many=True)
    total = serializers.IntegerField()
    limit = serializers.IntegerField()
    offset = serializers.IntegerField()


class EngineApiView(APIView):
    """Errors name the engine API's fields."""

    def handle_exception(self, exc):
        if isinstance(exc, PlatformError):
            exc.param = API_FIELD_NAMES.get(exc.param or "", exc.param)
            exc.details = {API_FIELD_NAMES.get(name, name): text for name, text in exc.details.items()}
        return super().handle_exception(exc)


class StartTrainingView(EngineApiView):
    permissions = {"POST": Permission.TRAIN}

    @extend_schema(request=OrderSerializer, responses=QueuedSerializer)
    def post(self, request):
        order = validated(OrderSerializer, request.data)
        job, warnings = services.start_training(
            request.auth,
            base_model=order["baseModel"],
            dataset=order["datasetPath"],
            adapter=paths.last_part(order["outputDir"], services.ADAPTER),
            recipe=recipe.read(order.get("hyperParams"), order.get("loraConfig")),
            request=request,
        )
        answer = JobAnswer(job, _("Training job has been queued"))
        return Response(QueuedSerializer(answer).data | ({"warnings": warnings} if warnings else {}))


class JobStatusView(EngineApiView):
    permissions = {"GET": Permission.READ}

    @extend_schema(responses=JobStatusSerializer)
    def get(self, request, pk):
        return Response(JobStatusSerializer(services.find(request.auth, pk)).data)


class JobActionView(EngineApiView):
    permissions = {"POST": Permission.TRAIN}

    def act(self, actor: Actor, job: TrainingJob, request: Request) -> JobAnswer:
        raise NotImplementedError

    @extend_schema(request=None, responses=ActedSerializer)
    def post(self, request, pk):
        refuse_body(request)
        return Response(ActedSerializer(self.act(request.auth, services.find(request.auth, pk), request)).data)


class CancelJobView(JobActionView):
    def act(self, actor: Actor, job: TrainingJob, request: Request) -> JobAnswer:
        return JobAnswer(services.cancel(actor, job, request), _("Training job has been cancelled"))


class PauseJobView(JobActionView):
    def act(self, actor: Actor, job: TrainingJob, request: Request) -> JobAnswer:
        return JobAnswer(services.pause(actor, job, request), _("Training job has been paused"))


class ResumeJobView(JobActionView):
    def act(self, actor: Actor, job: TrainingJob, request: Request) -> JobAnswer:
        return JobAnswer(services.resume(actor, job, request), _("Training job has been resumed"))


class ListJobsView(EngineApiView):
    permissions = {"GET": Permission.READ}

    @extend_schema(parameters=[ListQuerySerializer], responses=JobListSerializer)
    def get(self, request):
        query = validated_query(ListQuerySerializer, request)
        jobs = TrainingJob.objects.visible_to(request.auth)
        if "status" in query:
            jobs = jobs.with_status(query["status"])
        limit, offset = query["limit"], query["offset"]
        page = {"jobs": jobs[offset : offset + limit], "total": jobs.count(), "limit": limit, "offset": offset}
        return Response(JobListSerializer(page).data)
