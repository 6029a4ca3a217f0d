"""REST views of training jobs in the service API; those of the engine API are in versioned.py."""

import django_filters
from django.utils.translation import gettext as _
from drf_spectacular.utils import extend_schema
from rest_framework import mixins, viewsets
from rest_framework.response import Response

from accounts.actor import actor_of
from accounts.policy import Permission
from core.parsers import refuse_body, validated, validated_query
from core.tenant_views import TenantScopedMixin
from inference.logs import services as logs
from inference.logs.log_responses import ManagerLogFormat, ServiceLogFormat, render_line
from inference.logs.serializers import LogQuerySerializer, LogsSerializer, StreamQuerySerializer
from inference.logs.views import EVENTS, StreamingView
from models_app.serializers import MessageSerializer
from training.jobs import recipe, services
from training.jobs.serializers import (
    JobSerializer,
    ProgressQuerySerializer,
    ProgressSerializer,
    StartedSerializer,
    StartTrainingSerializer,
)
from training.models import JobState, TrainingJob


class JobFilter(django_filters.FilterSet):
    status = django_filters.ChoiceFilter(choices=JobState.choices, method="by_status")
    adapter = django_filters.CharFilter(field_name="adapter_name")
    dataset = django_filters.CharFilter(field_name="dataset_id")
    base_model = django_filters.CharFilter(field_name="base_model_id")

    class Meta:
        model = TrainingJob
        fields: list[str] = []

    def by_status(self, queryset, _name, value):
        return queryset.with_status(value)


class TrainingJobViewSet(TenantScopedMixin, mixins.ListModelMixin, mixins.RetrieveModelMixin, viewsets.GenericViewSet):
    queryset = TrainingJob.objects.select_related("tenant", "node", "created_by")
    serializer_class = JobSerializer
    filterset_class = JobFilter
    permissions = {
        "list": Permission.READ,
        "retrieve": Permission.READ,
        "progress": Permission.READ,
        "create": Permission.TRAIN,
        "pause": Permission.TRAIN,
        "resume": Permission.TRAIN,
        "cancel": Permission.TRAIN,
        "destroy": Permission.TRAIN,
    }

    def get_object(self):
        return services.find(actor_of(self.request), self.kwargs["pk"])

    @extend_schema(request=StartTrainingSerializer, responses={201: StartedSerializer})
    def create(self, request):
        """Errors are reported by field, before anything starts. The job then waits for its turn and for a device."""
        fields = validated(StartTrainingSerializer, request.data, shown=StartedSerializer)
        fields["recipe"] = recipe.read_fields(fields.get("recipe"))
        job, warnings = services.start_training(request.auth, **fields, request=request)
        return Response(self._serialize(job) | ({"warnings": warnings} if warnings else {}), status=201)

    @extend_schema(request=None, responses=JobSerializer)
    def pause(self, request, pk):
        """The trainer writes a checkpoint, ends and releases its memory."""
        refuse_body(request)
        return Response(self._serialize(services.pause(request.auth, self.get_object(), request)))

    @extend_schema(request=None, responses=JobSerializer)
    def resume(self, request, pk):
        """The job waits for its turn again, and resumes from its last checkpoint."""
        refuse_body(request)
        return Response(self._serialize(services.resume(request.auth, self.get_object(), request)))

    @extend_schema(request=None, responses=JobSerializer)
    def cancel(self, request, pk):
        refuse_body(request)
        return Response(self._serialize(services.cancel(request.auth, self.get_object(), request)))

    @extend_schema(responses=MessageSerializer)
    def destroy(self, request, pk):
        """Deletes an ended job's record, checkpoints and log. Its adapter stays."""
        refuse_body(request)
        services.delete(request.auth, self.get_object(), request)
        return Response({"message": _("Training job deleted.")})

    @extend_schema(parameters=[ProgressQuerySerializer], responses=ProgressSerializer)
    def progress(self, request, pk):
        job, query = self.get_object(), validated_query(ProgressQuerySerializer, request)
        points = job.progress.filter(step__gt=query["after"])[: query["limit"]]
        return Response(ProgressSerializer({"job_id": job.pk, "progress": points}).data)

    def _serialize(self, job: TrainingJob) -> dict:
        return self.get_serializer(job).data


class JobLogsView(StreamingView):
    @extend_schema(parameters=[LogQuerySerializer], responses={200: LogsSerializer, **EVENTS})
    def get(self, request, pk):
        job, whole = services.find(request.auth, pk), request.auth.is_operator
        query = validated_query(LogQuerySerializer, request)
        if query["follow"]:
            return self.stream(request, job.pk, TrainingJob.objects.visible_to, query, ServiceLogFormat(whole))
        lines = logs.latest(job.pk, query["lines"])
        return Response({"logs": [render_line(line, whole=whole) for line in lines]})


class JobLogStreamView(StreamingView):
    @extend_schema(parameters=[StreamQuerySerializer], responses=EVENTS)
    def get(self, request, pk):
        job, query = services.find(request.auth, pk), validated_query(StreamQuerySerializer, request)
        form = ManagerLogFormat(request.auth.is_operator)
        return self.stream(request, job.pk, TrainingJob.objects.visible_to, query, form)
