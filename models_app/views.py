"""REST of the catalogue, as the service document has it."""

import django_filters
from django.db.models import Q
from django.utils.translation import gettext as _
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import mixins, viewsets
from rest_framework.response import Response

from accounts.policy import Permission
from core.errors import InvalidRequest
from models_app import lifecycle, services
from models_app.models import Model
from models_app.serializers import CreatedSerializer, MessageSerializer, ModelSerializer, WriteModelSerializer

STATUSES = ("created", "starting", "running", "stopping", "stopped", "error")


class ModelFilter(django_filters.FilterSet):
    status = django_filters.ChoiceFilter(choices=[(word, word) for word in STATUSES], method="by_status")
    tag = django_filters.CharFilter(method="by_tag")
    search = django_filters.CharFilter(method="by_text")

    class Meta:
        model = Model
        fields = ["framework", "mode"]

    def by_status(self, queryset, _name, value):
        return lifecycle.get().with_status(queryset, value)

    def by_tag(self, queryset, _name, value):
        return queryset.filter(tags__contains=[value])

    def by_text(self, queryset, _name, value):
        wanted = Q(name__icontains=value) | Q(display_name__icontains=value) | Q(description__icontains=value)
        return queryset.filter(wanted | Q(aliases__name__icontains=value)).distinct()


class ModelViewSet(mixins.ListModelMixin, viewsets.GenericViewSet):
    """`ref` is an id, a name or an alias; a name may hold slashes."""

    queryset = Model.objects.select_related("tenant").prefetch_related("aliases")
    serializer_class = ModelSerializer
    filterset_class = ModelFilter
    lookup_url_kwarg = "ref"
    permissions = {
        "list": Permission.READ, "retrieve": Permission.READ, "create": Permission.MANAGE_MODELS,
        "update": Permission.MANAGE_MODELS, "partial_update": Permission.MANAGE_MODELS, "destroy": Permission.MANAGE_MODELS,
    }  # fmt: skip

    def get_queryset(self):
        queryset = super().get_queryset()
        if getattr(self, "swagger_fake_view", False):
            return queryset.none()
        return queryset.usable_by(self.request.auth)

    def get_serializer(self, models, *args, **kwargs):
        rows = models if kwargs.get("many") else [models]
        kwargs["context"] = {"statuses": lifecycle.get().statuses(rows)}
        return ModelSerializer(models, *args, **kwargs)

    def retrieve(self, request, ref):
        return Response(self.get_serializer(services.find(request.auth, ref)).data)

    @extend_schema(request=WriteModelSerializer, responses={201: CreatedSerializer})
    def create(self, request):
        model, warnings = services.create(request.auth, self._checked(request, partial=False), request)
        reply = {"id": model.pk, "name": model.name, "status": "created", "message": _("Model created.")}
        return Response(reply | ({"warnings": warnings} if warnings else {}), status=201)

    @extend_schema(request=WriteModelSerializer, responses=ModelSerializer)
    def update(self, request, ref):
        model = services.find_own(request.auth, ref)
        changed = services.change(request.auth, model, self._checked(request, partial=True), request)
        return Response(self.get_serializer(services.find(request.auth, changed.pk)).data)

    @extend_schema(request=WriteModelSerializer, responses=ModelSerializer)
    def partial_update(self, request, ref):
        return self.update(request, ref)

    @extend_schema(parameters=[OpenApiParameter("force", bool)], responses=MessageSerializer)
    def destroy(self, request, ref):
        force = request.query_params.get("force", "false")
        if force not in ("true", "false"):
            raise InvalidRequest(details={"force": _("true or false is expected.")})
        services.delete(request.auth, services.find_own(request.auth, ref), force=force == "true", request=request)
        return Response({"message": _("Model deleted.")})

    def _checked(self, request, partial: bool) -> dict:
        """Fields that are absent on change stay absent, whatever their default is."""
        serializer = WriteModelSerializer(data=request.data, partial=partial)
        serializer.is_valid(raise_exception=True)
        return dict(serializer.validated_data)
