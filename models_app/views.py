"""REST routes of the catalogue, in the form of the service API."""

import django_filters
from django.db.models import Q
from django.utils.translation import gettext as _
from drf_spectacular.utils import extend_schema
from rest_framework import mixins, viewsets
from rest_framework.response import Response

from accounts.actor import actor_of
from accounts.policy import Permission
from core.parsers import validated
from models_app import model_runtime, options, services
from models_app.models import Model
from models_app.serializers import (
    CreatedSerializer,
    DeleteSerializer,
    MessageSerializer,
    ModelSerializer,
    WriteModelSerializer,
)

STATUSES = ("created", "starting", "running", "stopping", "stopped", "error")


class ModelFilter(django_filters.FilterSet):
    status = django_filters.ChoiceFilter(choices=[(status, status) for status in STATUSES], method="by_status")
    framework = django_filters.ChoiceFilter(choices=[(name, name) for name in options.ENGINES])
    tag = django_filters.CharFilter(method="by_tag")
    search = django_filters.CharFilter(method="by_text")

    class Meta:
        model = Model
        fields = ["mode"]

    def by_status(self, queryset, _name, value):
        return model_runtime.get_runtime().with_status(queryset, value)

    def by_tag(self, queryset, _name, value):
        return queryset.filter(tags__contains=[value])

    def by_text(self, queryset, _name, value):
        matches = Q(name__icontains=value) | Q(display_name__icontains=value) | Q(description__icontains=value)
        return queryset.filter(matches | Q(aliases__name__icontains=value)).distinct()


class ModelViewSet(mixins.ListModelMixin, viewsets.GenericViewSet):
    """`ref` is an id, a name or an alias; a name may contain slashes."""

    queryset = Model.objects.all()
    serializer_class = ModelSerializer
    shown_serializer: type[ModelSerializer] = ModelSerializer  # of one model
    filterset_class = ModelFilter
    lookup_url_kwarg = "ref"
    permissions = {
        "list": Permission.READ,
        "retrieve": Permission.READ,
        "create": Permission.MANAGE_MODELS,
        "update": Permission.MANAGE_MODELS,
        "partial_update": Permission.MANAGE_MODELS,
        "destroy": Permission.MANAGE_MODELS,
    }

    def get_queryset(self):
        queryset = Model.objects.select_related("tenant").prefetch_related("aliases")
        if getattr(self, "swagger_fake_view", False):
            return queryset.none()
        return queryset.usable_by(actor_of(self.request))

    def paginate_queryset(self, queryset):
        return attach_running(super().paginate_queryset(queryset) or [])

    def retrieve(self, request, ref):
        return Response(self.shown(services.find(request.auth, ref)))

    @extend_schema(request=WriteModelSerializer, responses={201: CreatedSerializer})
    def create(self, request):
        model, warnings = services.create(request.auth, self.read_body(), request)
        reply = {
            "id": model.pk,
            "name": model.name,
            "status": "created",
            "message": _("Model created."),
            "estimate": model_runtime.get_runtime().estimate(model, request.auth),
        }
        return Response(reply | _warnings_field(warnings), status=201)

    @extend_schema(request=WriteModelSerializer, responses=ModelSerializer)
    def update(self, request, ref):
        """Omitted fields stay as they are; `config` is merged, and null removes an option of it."""
        model = services.find_own(request.auth, ref)
        changed, warnings = services.change(request.auth, model, self.read_body(model), request)
        return Response(self.shown(changed) | _warnings_field(warnings))

    @extend_schema(request=WriteModelSerializer, responses=ModelSerializer)
    def partial_update(self, request, ref):
        """The same as PUT."""
        return self.update(request, ref)

    @extend_schema(parameters=[DeleteSerializer], responses=MessageSerializer)
    def destroy(self, request, ref):
        body = request.data if isinstance(request.data, dict) else {}
        fields = validated(DeleteSerializer, {**request.query_params.dict(), **body})
        services.delete(request.auth, services.find_own(request.auth, ref), request=request, **fields)
        return Response({"message": _("Model deleted.")})

    def read_body(self, model: Model | None = None) -> dict:
        """The fields of a new model, or those to change."""
        partial = model is not None
        return validated(WriteModelSerializer, self.request.data, shown=self.shown_serializer, partial=partial)

    def shown(self, model: Model) -> dict:
        return ModelSerializer(attach_running([model])[0], context=self.get_serializer_context()).data


def attach_running(models: list[Model]) -> list[Model]:
    """Attach to each model, as `running`, what the app that runs models reports; one request for all."""
    statuses = model_runtime.get_runtime().statuses(models)
    for model in models:
        model.running = statuses[model.pk]
    return models


def _warnings_field(warnings: list[str]) -> dict:
    return {"warnings": warnings} if warnings else {}
