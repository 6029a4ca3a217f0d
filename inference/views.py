"""REST of what runs: start, stop, restart, the manager document's info, tasks, usage."""

from django.utils.translation import gettext as _
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework import mixins, viewsets
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts import audit
from accounts.policy import Permission
from core.tenancy import TenantScopedMixin
from inference import info, services, usage
from inference.models import Task
from inference.serializers import (
    AcceptedSerializer,
    StartSerializer,
    StopSerializer,
    TaskSerializer,
    UsageQuerySerializer,
)
from models_app import services as catalogue
from models_app.models import Model


class VerbView(APIView):
    """One verb on one model: the service does it, the reply has the task to follow."""

    permissions = {"POST": Permission.RUN_MODELS}
    serializer_class = StartSerializer

    def post(self, request, ref):
        model = catalogue.find_own(request.auth, ref)
        serializer = self.serializer_class(data=request.data)
        serializer.is_valid(raise_exception=True)
        task = self.act(model, **serializer.validated_data)
        audit.record(request.auth, f"model.{task.kind}", model, request=request, task=task.pk)
        status, message = self.reply(model)
        return Response({"success": True, "message": message, "task_id": task.pk, "status": status})


class StartView(VerbView):
    @extend_schema(request=StartSerializer, responses=AcceptedSerializer)
    def post(self, request, ref):
        return super().post(request, ref)

    def act(self, model, **options):
        return services.start(model, **options)

    def reply(self, model):
        return "starting", _("Model is starting.")


class StopView(VerbView):
    serializer_class = StopSerializer

    @extend_schema(request=StopSerializer, responses=AcceptedSerializer)
    def post(self, request, ref):
        return super().post(request, ref)

    def act(self, model, **options):
        return services.stop(model, **options)

    def reply(self, model):
        return "stopping", _("Model is stopping.")


class RestartView(VerbView):
    @extend_schema(request=StartSerializer, responses=AcceptedSerializer)
    def post(self, request, ref):
        return super().post(request, ref)

    def act(self, model, **options):
        return services.restart(model, **options)

    def reply(self, model):
        return "starting", _("Model is restarting.")


class InfoView(APIView):
    permissions = {"GET": Permission.READ}

    @extend_schema(responses=OpenApiTypes.OBJECT)
    def get(self, request, ref):
        model = catalogue.find(request.auth, ref)
        return Response({"success": True, "model": info.describe([model], request.auth)[0]})


class AllInfoView(APIView):
    permissions = {"GET": Permission.READ}

    @extend_schema(responses=OpenApiTypes.OBJECT)
    def get(self, request):
        models = Model.objects.usable_by(request.auth).prefetch_related("aliases")
        described = info.describe(list(models), request.auth)
        return Response(
            {
                "success": True,
                "models": {each["model_name"]: each for each in described},
                "total_models": len(described),
                "running_models": sum(each["status"] == "routing" for each in described),
                "total_pending_requests": sum(each["pending_requests"] for each in described),
            }
        )


class TaskViewSet(TenantScopedMixin, mixins.RetrieveModelMixin, mixins.ListModelMixin, viewsets.GenericViewSet):
    queryset = Task.objects.select_related("model")
    serializer_class = TaskSerializer
    filterset_fields = ["status", "kind", "model_id"]
    permissions = {"retrieve": Permission.READ, "list": Permission.READ}


class UsageView(APIView):
    permissions = {"GET": Permission.READ}

    @extend_schema(parameters=[UsageQuerySerializer], responses=OpenApiTypes.OBJECT)
    def get(self, request):
        serializer = UsageQuerySerializer(data=request.query_params)
        serializer.is_valid(raise_exception=True)
        query = dict(serializer.validated_data)
        start, end = query.pop("start_date", None), query.pop("end_date", None)
        return Response(usage.summary(request.auth, start=start, end=end, **query))
