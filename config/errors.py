"""Replies to errors that no view caught: Django's pages below /console/, the REST form elsewhere."""

from django.views import defaults

from core.errors import InvalidRequest, NotFound, PlatformError, json_response


def _is_page(request) -> bool:
    return request.path.startswith("/console/")


def not_found(request, exception):
    return defaults.page_not_found(request, exception) if _is_page(request) else json_response(NotFound(), request.path)


def bad_request(request, exception):
    """Mostly a Host header that is not allowed."""
    if _is_page(request):
        return defaults.bad_request(request, exception)
    return json_response(InvalidRequest(status=400), request.path)


def server_error(request):
    if _is_page(request):
        return defaults.server_error(request)
    details = {"request_id": getattr(request, "request_id", "")}
    return json_response(PlatformError(details=details), request.path)
