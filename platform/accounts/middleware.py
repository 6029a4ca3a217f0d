"""The language that a person has chosen, on the console's pages."""

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse

from accounts.authentication import activate_language


class OwnLanguageMiddleware:
    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if request.path.startswith("/console/") and request.user.is_authenticated:
            activate_language(request.user)
        return self.get_response(request)
