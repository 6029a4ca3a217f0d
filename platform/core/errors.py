"""Every failure that the platform reports on purpose, its codes on each surface, and its rendering for the REST API.

PlatformError
├── InvalidRequest            400 / 422   not JSON / a field is wrong
├── Unauthenticated           401
├── Forbidden                 403         role or scope too low, for an object of the caller's tenant
├── NotFound                  404         missing and foreign look the same
│   ├── ModelNotFound         404
│   └── TrainingJobNotFound   404
├── Conflict                  409         the state forbids it
│   ├── ModelAlreadyExists    409
│   └── TrainingJobConflict   409
├── TooLarge                  413
├── RateLimited               429
├── ModelNotRunning           503         stopped, or still starting at the wait limit
├── InsufficientResources     503         no device has enough memory
│   └── NoRoomYet             503         but soon one may: callers that can wait do so
├── EngineUnavailable         503         not installed, or crashed before the first byte
├── ServiceUnavailable        503         Postgres is unreachable
└── OperationTimeout          504

Three surfaces report them: /api by `status` and `code`, /api/v1 by `v1` where that differs, /v1 by `openai`.
"""

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from django.core.exceptions import PermissionDenied
from django.db import InterfaceError, OperationalError
from django.http import Http404, JsonResponse, UnreadablePostError
from django.utils.translation import gettext_lazy as _
from rest_framework import exceptions
from rest_framework.response import Response

from core.times import utc_timestamp

if TYPE_CHECKING:
    from django_stubs_ext import StrOrPromise

logger = logging.getLogger(__name__)


class PlatformError(Exception):
    """status, code and message of a failure; `param` names the field, `retry_after` is in seconds.

    `v1` is the status and code under /api/v1 where they differ, `openai` the type and code in OpenAI's form.
    """

    status = 500
    code = "INTERNAL_ERROR"
    message: "StrOrPromise" = _("Something went wrong on our side.")
    v1: tuple[int, str] | None = None
    openai: tuple[str, str | None] = ("api_error", "internal_error")

    def __init__(
        self,
        message: "StrOrPromise | None" = None,
        *,
        param: str | None = None,
        details: Mapping[str, Any] | None = None,
        retry_after: int | None = None,
        status: int | None = None,
    ):
        self.message = message or self.message
        self.param = param
        self.details = dict(details or {})
        self.retry_after = retry_after
        self.status = status or self.status
        super().__init__(str(self.message))


class InvalidRequest(PlatformError):
    status, code, message = 422, "INVALID_REQUEST", _("The request is not valid.")
    openai: tuple[str, str | None] = ("invalid_request_error", None)


class Unauthenticated(PlatformError):
    status, code = 401, "AUTHENTICATION_FAILED"
    message = _("A valid credential is required: Authorization: Bearer <token or key>, or X-API-Key.")
    openai = "authentication_error", "invalid_api_key"


class Forbidden(PlatformError):
    status, code, message = 403, "AUTHORIZATION_FAILED", _("Your role or key does not allow this.")
    openai = "permission_error", None


class NotFound(PlatformError):
    status, code, message = 404, "NOT_FOUND", _("There is no such thing.")
    openai = "invalid_request_error", "not_found"


class ModelNotFound(NotFound):
    code, message = "MODEL_NOT_FOUND", _("The model does not exist.")
    openai = "invalid_request_error", "model_not_found"


class TrainingJobNotFound(NotFound):
    message = _("There is no such training job.")
    v1 = 404, "TRAINING_JOB_NOT_FOUND"


class Conflict(PlatformError):
    status, code, message = 409, "CONFLICT", _("The current state does not allow this.")
    openai = "invalid_request_error", "conflict"


class ModelAlreadyExists(Conflict):
    code, message = "MODEL_ALREADY_EXISTS", _("A model or alias of this name exists already.")


class TrainingJobConflict(Conflict):
    v1 = 400, "TRAINING_JOB_RUNNING"


class TooLarge(PlatformError):
    status, code, message = 413, "INVALID_REQUEST", _("The body is too large.")
    openai = "invalid_request_error", None


class RateLimited(PlatformError):
    status, code, message = 429, "RATE_LIMITED", _("Too many requests.")
    openai = "rate_limit_error", "rate_limit_exceeded"


class ModelNotRunning(PlatformError):
    status, code, message = 503, "MODEL_NOT_RUNNING", _("The model is not running.")
    v1 = 503, "MODEL_NOT_READY"
    openai = "api_error", "model_not_ready"


class InsufficientResources(PlatformError):
    status, code, message = 503, "INSUFFICIENT_RESOURCES", _("No device has enough free memory.")
    openai = "api_error", "insufficient_resources"


class NoRoomYet(InsufficientResources):
    """The memory is in use by a model that may be evicted soon."""


class EngineUnavailable(PlatformError):
    status, code, message = 503, "ENGINE_UNAVAILABLE", _("The engine is not available.")
    v1 = 503, "MODEL_NOT_READY"
    openai = "api_error", "engine_unavailable"


class ServiceUnavailable(PlatformError):
    status, code, message = 503, "SERVICE_UNAVAILABLE", _("The database cannot be reached. Try again shortly.")
    openai = "api_error", "service_unavailable"


class OperationTimeout(PlatformError):
    status, code, message = 504, "OPERATION_TIMEOUT", _("The operation took too long.")
    v1 = 500, "INTERNAL_ERROR"
    openai = "api_error", "timeout"


OPENAI_PREFIX = "/v1/"
# the details that clients of /v1 get in addition to the message
OPENAI_DETAILS = ("state", "expected_seconds", "failure_reason", "context", "request_id")


def render(error: PlatformError, path: str) -> dict[str, Any]:
    """OpenAI's form below /v1, else one form that serves the service API and the engine API."""
    if path.startswith(OPENAI_PREFIX):
        return render_openai(error)
    details = dict(error.details)
    if error.param:
        details.setdefault(error.param, str(error.message))
    shown = _list_details(error, details) if _is_v1(path) else details
    return {
        "success": False,
        "message": str(error.message),
        "error": {"code": code_for(error, path), "message": str(error.message), "details": shown},
        "timestamp": utc_timestamp(),
        "path": path,
    }


def render_openai(error: PlatformError) -> dict[str, Any]:
    """OpenAI clients show only the message, so the message names the wrong fields."""
    kind, code = error.openai
    fields = {name: text for name, text in error.details.items() if error.status == 422 and name not in OPENAI_DETAILS}
    message = " ".join([str(error.message), *(f"{name}: {text}" for name, text in fields.items())])
    param = error.param or next(iter(fields), None)
    body: dict[str, Any] = {"message": message, "type": kind, "param": param, "code": code}
    if details := {field: error.details[field] for field in OPENAI_DETAILS if field in error.details}:
        body["details"] = details
    return {"error": body}


def _list_details(error: PlatformError, details: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Details in the form of the engine API. `type` is the exact cause; `code` may be less exact."""
    kind = error.code.lower()
    if not details:
        return [{"type": kind, "field": None, "description": str(error.message)}]
    return [{"type": kind, "field": field, "description": text} for field, text in details.items()]


def _is_v1(path: str) -> bool:
    return path.startswith("/api/v1/")


def code_for(error: PlatformError, path: str) -> str:
    return error.v1[1] if error.v1 and _is_v1(path) else error.code


def status_for(error: PlatformError, path: str) -> int:
    """/api/v1 and /v1 answer an invalid field with 400 where /api says 422."""
    if _is_v1(path) and error.v1:
        return error.v1[0]
    answers_400 = _is_v1(path) or path.startswith(OPENAI_PREFIX)
    return 400 if answers_400 and error.status == 422 else error.status


def headers_for(error: PlatformError) -> dict[str, str]:
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    if error.status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="serai"'
    return headers


def exception_handler(exc: Exception, context: dict[str, Any]) -> Response | None:
    """Django REST Framework's one handler. None lets Django log the bug and answer 500."""
    error = as_platform_error(exc)
    if error is None:
        return None
    path = context["request"].path
    return Response(render(error, path), status=status_for(error, path), headers=headers_for(error))


def json_response(error: PlatformError, path: str) -> JsonResponse:
    """The same response for plain Django views and handler404/handler500."""
    return JsonResponse(render(error, path), status=status_for(error, path), headers=headers_for(error))


def as_platform_error(exc: Exception) -> PlatformError | None:
    """Translate Django's and DRF's errors into ours; None for a bug."""
    match exc:
        case PlatformError():
            return exc
        case exceptions.ValidationError():
            return InvalidRequest(details=flatten(exc.detail))
        case exceptions.ParseError() | exceptions.UnsupportedMediaType():
            return InvalidRequest(str(exc.detail), status=400)
        case UnreadablePostError():
            return InvalidRequest(_("The body broke off before its end."), status=400)
        case exceptions.NotAuthenticated() | exceptions.AuthenticationFailed():
            return Unauthenticated()
        case exceptions.PermissionDenied() | PermissionDenied():
            return Forbidden()
        case exceptions.NotFound() | Http404():
            return NotFound()
        case exceptions.Throttled():
            return RateLimited(retry_after=int(exc.wait or 1))  # type: ignore[attr-defined]  # the stubs leave out `wait`
        case exceptions.APIException():
            return InvalidRequest(str(exc.detail), status=exc.status_code)
        case OperationalError() | InterfaceError():
            logger.warning("database away: %s", type(exc).__name__)
            return ServiceUnavailable(retry_after=5)
    return None


def flatten(detail: object, prefix: str = "") -> dict[str, str]:
    """DRF's nested error details as {"config.n_ctx": "text"}."""
    if isinstance(detail, dict):
        texts: dict[str, str] = {}
        for key, value in detail.items():
            texts |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
        return texts
    if isinstance(detail, list):
        return {prefix or "non_field_errors": " ".join(str(part) for part in detail)}
    return {prefix or "non_field_errors": str(detail)}
