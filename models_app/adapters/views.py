"""REST routes of adapters. `ref` is an id, or a name if it contains no slash."""

import django_filters
from django.db.models import Max, Q
from django.utils.translation import gettext as _
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework import mixins, viewsets
from rest_framework.response import Response

from accounts.policy import Permission
from core.errors import NotFound
from core.parsers import refuse_body, validated, validated_query
from core.streaming import ArchiveStream
from core.tenant_views import TenantScopedMixin
from models_app import model_runtime
from models_app.adapters import files, services
from models_app.adapters.serializers import (
    AdapterSerializer,
    DownloadSerializer,
    PublishSerializer,
    RollBackSerializer,
    VersionSerializer,
)
from models_app.models import Adapter
from models_app.serializers import MessageSerializer


class AdapterFilter(django_filters.FilterSet):
    base_model = django_filters.CharFilter(field_name="base_model__name")

    class Meta:
        model = Adapter
        fields = ["name"]


class AdapterViewSet(TenantScopedMixin, mixins.ListModelMixin, mixins.RetrieveModelMixin, viewsets.GenericViewSet):
    queryset = Adapter.objects.select_related("tenant", "base_model", "current").annotate(
        newest=Max("versions__number")
    )
    serializer_class = AdapterSerializer
    filterset_class = AdapterFilter
    lookup_url_kwarg = "ref"
    permissions = {
        "list": Permission.READ,
        "retrieve": Permission.READ,
        "versions": Permission.READ,
        "download": Permission.TRAIN,
        "destroy": Permission.TRAIN,
        "publish": Permission.MANAGE_MODELS,
        "unpublish": Permission.MANAGE_MODELS,
        "rollback": Permission.MANAGE_MODELS,
    }

    def get_object(self):
        """An id has precedence over a name. If several tenants use a name, operators get the oldest adapter."""
        ref = self.kwargs["ref"]
        matches = self.get_queryset().filter(Q(pk=ref) | Q(name=ref)).order_by("created_at", "pk")
        found = min(matches, key=lambda adapter: adapter.pk != ref, default=None)
        if found is None:
            raise NotFound()
        return found

    @extend_schema(responses=VersionSerializer(many=True))
    def versions(self, request, ref):
        """Newest first, each with its evaluation before and after the training."""
        versions = self.paginate_queryset(self.get_object().versions.select_related("adapter")) or []
        loaded = model_runtime.get_runtime().adapters_loaded([version.pk for version in versions])
        return self.get_paginated_response(VersionSerializer(versions, many=True, context={"loaded": loaded}).data)

    @extend_schema(request=PublishSerializer, responses=AdapterSerializer)
    def publish(self, request, ref):
        """Serve this version under the adapter's name, to the whole tenant."""
        adapter, fields = self.get_object(), validated(PublishSerializer, request.data)
        services.publish(request.auth, adapter, fields.get("version"), request)
        return self.retrieve(request, ref)

    @extend_schema(request=None, responses=AdapterSerializer)
    def unpublish(self, request, ref):
        """Stop serving the adapter."""
        refuse_body(request)
        services.unpublish(request.auth, self.get_object(), request)
        return self.retrieve(request, ref)

    @extend_schema(request=RollBackSerializer, responses=AdapterSerializer)
    def rollback(self, request, ref):
        """Serve an earlier version under the adapter's name."""
        adapter, fields = self.get_object(), validated(RollBackSerializer, request.data)
        services.roll_back(request.auth, adapter, fields["version"], request)
        return self.retrieve(request, ref)

    @extend_schema(responses=MessageSerializer)
    def destroy(self, request, ref):
        """Deletes all versions. Members may delete adapters that they trained, admins any adapter."""
        refuse_body(request)
        services.delete(request.auth, self.get_object(), request)
        return Response({"message": _("Adapter deleted.")})

    @extend_schema(parameters=[DownloadSerializer], responses={(200, "application/x-tar"): OpenApiTypes.BINARY})
    def download(self, request, ref):
        """A tar archive of one version, in the form that PEFT reads."""
        adapter, fields = self.get_object(), validated_query(DownloadSerializer, request)
        version = services.version_to_download(adapter, fields.get("version"))
        folder = files.folder_of(version)
        name = f"{version.adapter_id}-v{version.number}"
        return ArchiveStream({f"{name}/{file}": folder / file for file in sorted(files.REQUIRED)}, f"{name}.tar")
