"""What views that take a data set's file have in common."""

from contextlib import closing

from django.conf import settings
from django.utils.translation import gettext as _

from core.errors import InvalidRequest
from core.uploads import ToDisk


class TakesFile:
    """The file of a form goes to disk as it comes, whatever reads the body first."""

    def dispatch(self, request, *args, **kwargs):
        """A draft that was not kept goes with the request."""
        with closing(ToDisk(settings.DATASET_MAX_BYTES)) as upload:
            request.upload_handlers = [upload]
            return super().dispatch(request, *args, **kwargs)

    def require_length(self) -> None:
        if "Content-Length" not in self.request.headers:  # Django would take the body for an empty one
            raise InvalidRequest(_("Say how long the body is: Content-Length."), status=411)
