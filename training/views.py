"""REST of data sets."""

from contextlib import closing

from django.conf import settings
from django.utils.translation import gettext as _
from drf_spectacular.utils import extend_schema
from rest_framework import mixins, viewsets
from rest_framework.parsers import MultiPartParser
from rest_framework.response import Response

from accounts.policy import Permission
from core.errors import InvalidRequest
from core.tenancy import TenantScopedMixin
from core.uploads import ToDisk
from models_app.serializers import MessageSerializer
from training import services
from training.models import Dataset
from training.serializers import (
    DatasetSerializer,
    PreviewQuerySerializer,
    PreviewSerializer,
    UploadSerializer,
)


class DatasetViewSet(TenantScopedMixin, mixins.ListModelMixin, mixins.RetrieveModelMixin, viewsets.GenericViewSet):
    queryset = Dataset.objects.select_related("tenant")
    serializer_class = DatasetSerializer
    filterset_fields = ["name", "format"]
    parser_classes = [MultiPartParser]
    permissions = {
        "list": Permission.READ,
        "retrieve": Permission.READ,
        "preview": Permission.READ,
        "create": Permission.TRAIN,
        "destroy": Permission.TRAIN,
    }

    def dispatch(self, request, *args, **kwargs):
        """Whatever reads the body first, the file goes to disk; a draft that was not kept goes with the request."""
        with closing(ToDisk(settings.DATASET_MAX_BYTES)) as upload:
            request.upload_handlers = [upload]
            return super().dispatch(request, *args, **kwargs)

    @extend_schema(request={"multipart/form-data": UploadSerializer}, responses={201: DatasetSerializer})
    def create(self, request):
        """Every row is checked; if one is wrong, the reply names its line and nothing is kept."""
        if "Content-Length" not in request.headers:  # Django would take the body for an empty one
            raise InvalidRequest(_("Say how long the body is: Content-Length."), status=411)
        serializer = UploadSerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        fields = dict(serializer.validated_data)
        dataset = services.add_dataset(request.auth, fields.pop("file"), **fields, request=request)
        return Response(self.get_serializer(dataset).data, status=201)

    @extend_schema(responses=MessageSerializer)
    def destroy(self, request, pk):
        services.delete_dataset(request.auth, self.get_object(), request)
        return Response({"message": _("Data set deleted.")})

    @extend_schema(parameters=[PreviewQuerySerializer], responses=PreviewSerializer)
    def preview(self, request, pk):
        dataset = self.get_object()
        query = PreviewQuerySerializer(data=request.query_params)
        query.is_valid(raise_exception=True)
        shown = services.preview(dataset, query.validated_data["rows"], query.validated_data["seed"])
        return Response(PreviewSerializer({"format": dataset.format, "rows": shown}).data)
