"""/v1/files: datasets as the files of OpenAI's fine-tuning. A file's id is its dataset's."""

import re

from django.utils.translation import gettext as _
from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework import mixins, serializers, viewsets
from rest_framework.filters import BaseFilterBackend
from rest_framework.parsers import MultiPartParser
from rest_framework.response import Response

from accounts.policy import Permission
from core.errors import InvalidRequest
from core.streaming import AlwaysJson, FileStream
from core.tenant_views import TenantScopedMixin
from training.datasets import descriptions, row_files, services, storage
from training.datasets.uploads import FileUploadMixin
from training.models import Dataset
from training.openai.ignored import IgnoredNamesMixin
from training.openai.pages import CursorPagination

PURPOSE, EXPIRY = "fine-tune", "expires_after"
INVALID_CHARACTER = re.compile(r"[^\w .-]")
MAX_NAME_LENGTH = 100


class FileSerializer(serializers.Serializer):
    """Every stored file was checked row by row, so its status is always `processed`.

    `status_details` says which kind of file it was, and which parts of it are not learnt.
    """

    id = serializers.CharField()
    object = serializers.CharField(default="file", read_only=True)
    bytes = serializers.IntegerField(source="size_bytes")
    created_at = serializers.SerializerMethodField()
    filename = serializers.SerializerMethodField()
    purpose = serializers.CharField(default=PURPOSE, read_only=True)
    status = serializers.CharField(default="processed", read_only=True)
    status_details = serializers.SerializerMethodField()

    def get_created_at(self, dataset) -> int:
        return int(dataset.created_at.timestamp())

    def get_filename(self, dataset) -> str:
        return f"{dataset.name}.jsonl"

    def get_status_details(self, dataset: Dataset) -> str:
        return descriptions.describe_reading(dataset)


class NewFileSerializer(serializers.Serializer):
    file = serializers.FileField()
    purpose = serializers.CharField()

    def validate(self, attrs):
        """A file that is kept for longer than was asked is no trifle."""
        if any(name.partition("[")[0] == EXPIRY and value for name, value in self.initial_data.items()):
            raise serializers.ValidationError({EXPIRY: _("Files are kept until they are deleted: leave this out.")})
        return attrs

    def validate_purpose(self, purpose: str) -> str:
        if purpose != PURPOSE:
            raise serializers.ValidationError(_("Only files for %(purpose)s are kept here.") % {"purpose": PURPOSE})
        return purpose


class DeletedFileSerializer(serializers.Serializer):
    id = serializers.CharField()
    object = serializers.CharField()
    deleted = serializers.BooleanField()


class FileViewSet(
    FileUploadMixin,
    IgnoredNamesMixin,
    TenantScopedMixin,
    mixins.ListModelMixin,
    mixins.RetrieveModelMixin,
    viewsets.GenericViewSet,
):
    queryset = Dataset.objects.select_related("tenant")
    serializer_class = FileSerializer
    pagination_class = CursorPagination
    parser_classes = [MultiPartParser]
    filter_backends: list[type[BaseFilterBackend]] = []
    list_parameters = (*IgnoredNamesMixin.list_parameters, "purpose")
    content_negotiation_class = AlwaysJson  # clients request application/binary
    permissions = dict.fromkeys(["list", "retrieve", "create", "destroy", "content"], Permission.TRAIN)

    def filter_queryset(self, queryset):
        """All files have one purpose."""
        purpose = self.request.query_params.get("purpose") if self.action == "list" else None
        return queryset if purpose in (None, PURPOSE) else queryset.none()

    @extend_schema(request={"multipart/form-data": NewFileSerializer}, responses=FileSerializer)
    def create(self, request):
        """Every row is checked; if one is wrong, the message names its line and nothing is kept."""
        self.require_length()
        draft = self.read_body(NewFileSerializer)["file"]
        dataset = services.add_dataset(request.auth, draft, name=name_from(draft.name), request=request)
        return Response(self.get_serializer(dataset).data)

    @extend_schema(responses=DeletedFileSerializer)
    def destroy(self, request, pk):
        services.delete_dataset(request.auth, self.get_object(), request)
        return Response({"id": pk, "object": "file", "deleted": True})

    @extend_schema(responses={(200, "application/jsonl"): OpenApiResponse(response=bytes)})
    def content(self, request, pk):
        """The file as it was uploaded, other kinds as JSON lines."""
        dataset = self.get_object()
        return FileStream(storage.path_of(dataset), "application/jsonl")


def name_from(filename: str) -> str:
    """A valid dataset name, as close to the file's as possible."""
    name = INVALID_CHARACTER.sub("-", row_files.without_suffix(filename)).lstrip(" .-")[:MAX_NAME_LENGTH]
    if not name:
        raise InvalidRequest(_("Give the file a name."), param="file")
    return name
