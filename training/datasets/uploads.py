"""Base of the views that receive a dataset's file."""

from contextlib import closing

from django.conf import settings
from django.utils.translation import gettext as _
from rest_framework.views import APIView

from core.errors import InvalidRequest
from core.uploads import DiskUploadHandler


class FileUploadMixin(APIView):
    """Streams the form's file to disk, whatever reads the body first."""

    def dispatch(self, request, *args, **kwargs):
        """Removes a draft that was not kept, at the end of the request."""
        with closing(DiskUploadHandler(settings.DATASET_MAX_BYTES)) as upload:
            request.upload_handlers = [upload]
            return super().dispatch(request, *args, **kwargs)

    def require_length(self) -> None:
        if "Content-Length" not in self.request.headers:  # Django would treat the body as empty
            raise InvalidRequest(_("Say how long the body is: Content-Length."), status=411)
