"""REST views for running models: start, stop, restart, the manager API's info and devices, tasks, usage."""

from collections.abc import Callable

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _
from drf_spectacular.utils import extend_schema
from rest_framework import mixins, viewsets
from rest_framework.response import Response
from rest_framework.serializers import Serializer
from rest_framework.views import APIView

from accounts import audit
from accounts.policy import Permission
from core.errors import PlatformError
from core.parsers import refuse_body, validated, validated_query
from core.tenant_views import TenantScopedMixin
from inference import usage
from inference.models import Task
from inference.placement import claim, estimate, reason_messages
from inference.serializers import (
    AcceptedSerializer,
    AllInfoSerializer,
    DevicesSerializer,
    EstimateSerializer,
    ExplanationSerializer,
    InfoSerializer,
    RestartedSerializer,
    StartSerializer,
    StoppedSerializer,
    StopSerializer,
    TaskSerializer,
    UsageQuerySerializer,
    UsageSerializer,
    VersionedModelSerializer,
    VersionedModelsSerializer,
)
from inference.serving import devices, explain, info, services, versioned
from models_app import services as catalogue
from models_app.models import Model
from models_app.views import ModelViewSet


class ModelActionView(APIView):
    """One action on one model: `service` is the function; the reply has the id of the task to watch."""

    permissions = {"POST": Permission.RUN_MODELS}
    serializer_class: type[Serializer] = StartSerializer
    service: Callable[..., Task]
    status: str
    message: str | Promise

    @extend_schema(responses=AcceptedSerializer)
    def post(self, request, ref):
        model = catalogue.find_own(request.auth, ref)
        task = self._run_service(request.auth, model, validated(self.serializer_class, request.data))
        audit.record(request.auth, f"model.{task.kind}", model, request=request, task=task.pk)
        reply = {"success": True, "message": str(self.message), "task_id": task.pk, "status": self.status}
        return Response(reply | ({"warnings": [task.warning]} if task.warning else {}))

    def _run_service(self, actor, model, options):
        """The placement trace names nodes, so only operators get it."""
        try:
            return self.service(model, **options)
        except PlatformError as error:
            if actor.is_operator and isinstance(error.__cause__, claim.PlacementRefused):
                error.details["candidates"] = [
                    reason_messages.candidate_line(candidate) for candidate in error.__cause__.decision.trace
                ]
            raise


class StartModelView(ModelActionView):
    service, status = staticmethod(services.start), "starting"

    message = _("Model is starting.")


class StopModelView(ModelActionView):
    service, status = staticmethod(services.stop), "stopping"
    serializer_class = StopSerializer

    message = _("Model is stopping.")


class RestartModelView(ModelActionView):
    service, status = staticmethod(services.restart), "starting"

    message = _("Model is restarting.")


class RestartAutostartView(APIView):
    """Restarts the autostart models of the caller's tenant; of all tenants for an operator without a tenant."""

    for_all_tenants = True
    permissions = {"POST": Permission.RUN_MODELS}

    @extend_schema(request=None, responses=RestartedSerializer)
    def post(self, request):
        refuse_body(request)
        done, failed = services.restart_autostart(request.auth)
        _audit_each(request, "model.restart", done)
        message = _("%(count)d autostart models are restarting.") % {"count": len(done)}
        reply = {"success": not failed, "message": message, "started_models": [model.name for model in done]}
        return Response(reply | ({"failed_models": failed} if failed else {}))


class StopAllView(APIView):
    """Stops the models of the caller's tenant; of all tenants for an operator without a tenant."""

    for_all_tenants = True
    permissions = {"POST": Permission.RUN_MODELS}

    @extend_schema(request=StopSerializer, responses=StoppedSerializer)
    def post(self, request):
        done, _failed = services.stop_all(request.auth, **validated(StopSerializer, request.data))
        _audit_each(request, "model.stop", done)
        names = [model.name for model in done]
        return Response({"success": True, "message": _("All models are stopping."), "stopped_models": names})


def _audit_each(request, action: str, models: list[Model]) -> None:
    for model in models:
        audit.record(request.auth, action, model, request=request)


class InfoView(APIView):
    permissions = {"GET": Permission.READ}

    @extend_schema(responses=InfoSerializer)
    def get(self, request, ref):
        model = catalogue.find(request.auth, ref)
        return Response({"success": True, "model": info.describe([model], request.auth)[0]})


class EstimateView(APIView):
    permissions = {"GET": Permission.READ}

    @extend_schema(responses=EstimateSerializer)
    def get(self, request, ref):
        return Response(estimate.estimate(catalogue.find(request.auth, ref), request.auth))


class ExplainView(APIView):
    permissions = {"GET": Permission.READ}

    @extend_schema(responses=ExplanationSerializer)
    def get(self, request, ref):
        explained = explain.explain(catalogue.find(request.auth, ref), request.auth)
        return Response(ExplanationSerializer(explained).data)


class AllInfoView(APIView):
    permissions = {"GET": Permission.READ}

    @extend_schema(responses=AllInfoSerializer)
    def get(self, request):
        models = Model.objects.usable_by(request.auth).select_related("tenant").prefetch_related("aliases")
        return Response({"success": True, **info.overview(list(models), request.auth)})


class DevicesView(APIView):
    permissions = {"GET": Permission.OPERATE}

    @extend_schema(responses=DevicesSerializer)
    def get(self, request):
        return Response({"success": True, "devices": devices.describe()})


class VersionedModelViewSet(ModelViewSet):
    """Below /api/v1 a model also has the fields of the engine API, and `models` lists the same models as `items`."""

    shown_serializer = VersionedModelSerializer

    @extend_schema(operation_id="versioned_models_list", responses=VersionedModelsSerializer)
    def list(self, request):
        found = self.paginate_queryset(self.filter_queryset(self.get_queryset()))
        items = self.get_serializer(found, many=True).data
        reply = self.get_paginated_response(items)
        reply.data["models"] = versioned.add_fields(items, found, request.auth)
        return reply

    @extend_schema(operation_id="versioned_models_retrieve", responses=VersionedModelSerializer)
    def retrieve(self, request, ref):
        model = catalogue.find(request.auth, ref)
        return Response(versioned.add_fields([self.shown(model)], [model], request.auth)[0])

    def read_body(self, model: Model | None = None) -> dict:
        """What `retrieve` adds to `config` may be sent back as it is."""
        fields = super().read_body(model)
        if model is not None and "config" in fields:
            added = versioned.config_fields(model).items()
            fields["config"] = {name: value for name, value in fields["config"].items() if (name, value) not in added}
        return fields


class TaskViewSet(TenantScopedMixin, mixins.RetrieveModelMixin, mixins.ListModelMixin, viewsets.GenericViewSet):
    queryset = Task.objects.select_related("model")
    serializer_class = TaskSerializer
    filterset_fields = ["status", "kind", "model_id"]
    permissions = {"retrieve": Permission.READ, "list": Permission.READ}


class UsageView(APIView):
    permissions = {"GET": Permission.READ}

    @extend_schema(parameters=[UsageQuerySerializer], responses=UsageSerializer)
    def get(self, request):
        query = validated_query(UsageQuerySerializer, request)
        start, end = query.pop("start_date", None), query.pop("end_date", None)
        return Response(usage.summary(request.auth, start=start, end=end, **query))
