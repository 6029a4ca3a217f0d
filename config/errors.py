"""Answers to what no view caught: the REST form below /api, Django's pages elsewhere."""

from django.views import defaults

from core.errors import InvalidRequest, NotFound, PlatformError, json_response


def _is_page(request) -> bool:
    return request.path.startswith("/console/")


def not_found(request, exception):
    return defaults.page_not_found(request, exception) if _is_page(request) else json_response(NotFound(), request.path)


def bad_request(request, exception):
    """A host name that is not ours, above all."""
    if _is_page(request):
        return defaults.bad_request(request, exception)
    return json_response(InvalidRequest(status=400), request.path)


def server_error(request):
    if _is_page(request):
        return defaults.server_error(request)
    details = {"request_id": getattr(request, "request_id", "")}
    return json_response(PlatformError(details=details), request.path)
