"""What OpenAI's clients send and the routes here have no use for: left out, and told in the header Serai-Ignored."""

from typing import Any

from rest_framework.generics import GenericAPIView
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import Serializer

from core.client_names import IGNORED_HEADER, ignored_value
from core.parsers import unknown_names

PAGE_PARAMETERS = ("limit", "after")
NOTHING: tuple[object, ...] = (None, "", [], {})  # values that ask for nothing


class IgnoredNamesMixin(GenericAPIView[Any]):
    """Every reply names what was left out, errors too."""

    action: str
    list_parameters: tuple[str, ...] = (*PAGE_PARAMETERS, "order")

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        self.ignored: list[str] = []
        super().initial(request, *args, **kwargs)
        if request.method == "GET":
            known = self.list_parameters if self.action == "list" else PAGE_PARAMETERS
            self.ignored += [name for name in request.query_params if name not in known]

    def finalize_response(self, request: Request, response: Response, *args: Any, **kwargs: Any) -> Response:
        response = super().finalize_response(request, response, *args, **kwargs)
        if names := getattr(self, "ignored", []):  # none if the request was refused before it was read
            response[IGNORED_HEADER] = ignored_value(names)
        return response

    def read_body(self, serializer_class: type[Serializer[Any]] = Serializer) -> dict[str, Any]:
        """The known fields. Raises rest_framework's ValidationError."""
        data = self.request.data or {}
        serializer = serializer_class(data=data)
        fields = data.items() if isinstance(data, dict) else ()
        asked = {name: value for name, value in fields if value not in NOTHING}
        self.ignored += [name for name, _serializer in unknown_names(serializer, asked)]
        serializer.is_valid(raise_exception=True)
        return dict(serializer.validated_data)
