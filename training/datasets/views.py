"""REST views of datasets."""

from django.utils.translation import gettext as _
from drf_spectacular.utils import extend_schema
from rest_framework import mixins, viewsets
from rest_framework.parsers import MultiPartParser
from rest_framework.response import Response

from accounts.policy import Permission
from core.parsers import refuse_body, validated, validated_query
from core.tenant_views import TenantScopedMixin
from models_app.serializers import MessageSerializer
from training import base_models
from training.datasets import descriptions, services, tokens
from training.datasets.serializers import (
    DatasetSerializer,
    PreviewQuerySerializer,
    PreviewSerializer,
    TokensQuerySerializer,
    TokensSerializer,
    UploadSerializer,
)
from training.datasets.uploads import FileUploadMixin
from training.models import Dataset


class DatasetViewSet(
    FileUploadMixin, TenantScopedMixin, mixins.ListModelMixin, mixins.RetrieveModelMixin, viewsets.GenericViewSet
):
    queryset = Dataset.objects.select_related("tenant")
    serializer_class = DatasetSerializer
    filterset_fields = ["name", "format"]
    parser_classes = [MultiPartParser]
    permissions = {
        "list": Permission.READ,
        "retrieve": Permission.READ,
        "preview": Permission.READ,
        "tokens": Permission.READ,
        "create": Permission.TRAIN,
        "destroy": Permission.TRAIN,
    }

    @extend_schema(request={"multipart/form-data": UploadSerializer}, responses={201: DatasetSerializer})
    def create(self, request):
        """Every row is checked; if one is wrong, the reply names its line and nothing is kept."""
        self.require_length()
        fields = validated(UploadSerializer, request.data)
        dataset = services.add_dataset(request.auth, fields.pop("file"), **fields, request=request)
        return Response(self.get_serializer(dataset).data, status=201)

    @extend_schema(responses=MessageSerializer)
    def destroy(self, request, pk):
        refuse_body(request)
        services.delete_dataset(request.auth, self.get_object(), request)
        return Response({"message": _("Data set deleted.")})

    @extend_schema(parameters=[PreviewQuerySerializer], responses=PreviewSerializer)
    def preview(self, request, pk):
        dataset = self.get_object()
        query = validated_query(PreviewQuerySerializer, request)
        shown = {
            "description": descriptions.describe_dataset(dataset),
            "format": dataset.format,
            "rows": services.preview(dataset, query["rows"], query["seed"]),
        }
        return Response(PreviewSerializer(shown).data)

    @extend_schema(parameters=[TokensQuerySerializer], responses=TokensSerializer)
    def tokens(self, request, pk):
        """Counted with the model's own tokenizer and chat template; takes some seconds."""
        dataset = self.get_object()
        query = validated_query(TokensQuerySerializer, request)
        model = base_models.find(request.auth, query["base_model"])
        return Response(TokensSerializer(tokens.count_tokens(dataset, model, query.get("max_seq_length"))).data)
