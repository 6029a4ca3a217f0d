"""The response after too many failed logins of one user name and address (django-axes calls it)."""

from django.conf import settings
from django.shortcuts import render
from django.utils.translation import gettext as _

from core.errors import RateLimited, json_response


def response(request, _credentials):
    """A page in the console, the REST error elsewhere. Each further failure restarts the waiting time."""
    seconds = int(settings.AXES_COOLOFF_TIME.total_seconds())
    if not request.path.startswith("/console/"):
        return json_response(RateLimited(_("Too many failed log-ins."), retry_after=seconds), request.path)
    page = render(request, "locked.html", {"minutes": seconds // 60}, status=429)
    page["Retry-After"] = str(seconds)
    return page
