"""/v1/fine_tuning/jobs: training for OpenAI's clients. A job has the same id in every API."""

from contextlib import contextmanager

from django.utils.translation import gettext as _
from drf_spectacular.utils import extend_schema
from rest_framework import mixins, serializers, viewsets
from rest_framework.filters import BaseFilterBackend
from rest_framework.response import Response

from accounts.actor import actor_of
from accounts.policy import Permission
from core.errors import InvalidRequest, PlatformError
from core.pagination import query_integer
from core.tenant_views import TenantScopedMixin
from training import base_models
from training.jobs import recipe, services
from training.jobs.serializers import TextField
from training.models import TrainingJob
from training.openai import job_responses
from training.openai.ignored import IgnoredNamesMixin
from training.openai.pages import DEFAULT_LIMIT, LIST_SCHEMA, MAX_LIMIT, CursorPagination, render_list

# OpenAI's hyperparameters → the recipe's fields; our other fields → OpenAI's
HYPERPARAMETERS = {"n_epochs": "epochs", "batch_size": "batch_size", "learning_rate_multiplier": "learning_rate"}
PARAMS = {"base_model": "model", "dataset": "training_file", "adapter": "suffix"}
OTHER_METHODS = ("dpo", "reinforcement")
MULTIPLIER_RANGE = 1e-3, 1e3


class NewJobSerializer(serializers.Serializer):
    """`suffix` becomes the adapter's name; by default it is made of the model's and the file's."""

    model = TextField(max_length=200)
    training_file = TextField(max_length=100)
    suffix = TextField(max_length=64, required=False, allow_null=True)
    seed = serializers.IntegerField(min_value=0, max_value=2**31 - 1, required=False, allow_null=True)
    hyperparameters = serializers.DictField(required=False, allow_null=True)
    method = serializers.DictField(required=False, allow_null=True)
    validation_file = serializers.CharField(required=False, allow_null=True)
    integrations = serializers.ListField(required=False, allow_null=True)

    def validate(self, attrs):
        """What would change the training is not left out in silence, wherever it stands."""
        given = {name for name, value in self.initial_data.items() if value is not None}
        errors = dict.fromkeys(given & HYPERPARAMETERS.keys(), _("It belongs in method.supervised.hyperparameters."))
        ours = given & (recipe.TABLES["recipe"].keys() | {"recipe"}) - {*self.fields, *HYPERPARAMETERS}
        errors |= dict.fromkeys(ours, _("Only the recipe of POST /api/training/jobs has it."))
        if errors:
            raise serializers.ValidationError(errors)
        return attrs

    def validate_validation_file(self, name):
        if name:
            raise serializers.ValidationError(_("Held-out rows are chosen from the training file: leave this out."))

    def validate_integrations(self, integrations):
        if integrations:
            raise serializers.ValidationError(_("There are no integrations here."))

    def validate_method(self, method):
        if method and method.get("type") != "supervised":
            raise serializers.ValidationError(_("Only the method supervised is offered."))
        if method and any(method.get(name) for name in OTHER_METHODS):
            raise serializers.ValidationError(_("Only the method supervised is offered."))
        supervised = (method or {}).get("supervised") or {}
        if not isinstance(supervised, dict) or not isinstance(supervised.get("hyperparameters") or {}, dict):
            raise serializers.ValidationError(_("Expected an object."))
        return method


class FineTuningJobSerializer(serializers.Serializer):
    """OpenAI's `fine_tuning.job`."""

    id = serializers.CharField()
    object = serializers.CharField()
    status = serializers.CharField()
    fine_tuned_model = serializers.CharField(allow_null=True)


class JobViewSet(IgnoredNamesMixin, TenantScopedMixin, mixins.ListModelMixin, viewsets.GenericViewSet):
    queryset = TrainingJob.objects.all()
    serializer_class = FineTuningJobSerializer
    pagination_class = CursorPagination
    filter_backends: list[type[BaseFilterBackend]] = []
    permissions = dict.fromkeys(
        ["list", "retrieve", "create", "cancel", "pause", "resume", "events", "checkpoints"], Permission.TRAIN
    )

    @extend_schema(request=NewJobSerializer, responses=FineTuningJobSerializer)
    def create(self, request):
        """Errors are reported by field, before anything starts. The job then waits for its turn and for a device."""
        order = self.read_body(NewJobSerializer)
        self.ignored += _unused_names(order.get("method") or {})
        with openai_field_names():
            job = start_job(request.auth, order, request)
        return Response(self._render(job))

    @extend_schema(responses=FineTuningJobSerializer(many=True))
    def list(self, request):
        self._refuse_metadata()
        jobs = self.paginate_queryset(self.get_queryset()) or []
        model_names = job_responses.fine_tuned_models(jobs)
        return self.get_paginated_response([job_responses.render_job(job, model_names.get(job.pk)) for job in jobs])

    @extend_schema(responses=FineTuningJobSerializer)
    def retrieve(self, request, pk):
        return Response(self._render(self._job()))

    @extend_schema(request=None, responses=FineTuningJobSerializer)
    def cancel(self, request, pk):
        self.read_body()
        return Response(self._render(services.cancel(request.auth, self._job(), request)))

    @extend_schema(request=None, responses=FineTuningJobSerializer)
    def pause(self, request, pk):
        """The trainer writes a checkpoint, ends and releases its memory."""
        self.read_body()
        return Response(self._render(services.pause(request.auth, self._job(), request)))

    @extend_schema(request=None, responses=FineTuningJobSerializer)
    def resume(self, request, pk):
        """The job waits for its turn again, and resumes from its last checkpoint."""
        self.read_body()
        return Response(self._render(services.resume(request.auth, self._job(), request)))

    @extend_schema(responses=LIST_SCHEMA)
    def events(self, request, pk):
        """Newest first."""
        job, limit = self._job(), query_integer(request, "limit", DEFAULT_LIMIT, MAX_LIMIT)
        found = job_responses.events_before(job, _parse_place(job, request.query_params.get("after")), limit + 1)
        return Response(render_list(found[:limit], len(found) > limit))

    @extend_schema(responses=LIST_SCHEMA)
    def checkpoints(self, request, pk):
        """Those that a run can resume from, newest first; an ended job has none."""
        job, limit = self._job(), query_integer(request, "limit", DEFAULT_LIMIT, MAX_LIMIT)
        found = job_responses.checkpoints_before(job, _parse_place(job, request.query_params.get("after")))
        return Response(render_list(found[:limit], len(found) > limit))

    def _refuse_metadata(self) -> None:
        """Jobs keep none, so a list that ignored it would show others' jobs than were asked for."""
        if any(name.partition("[")[0] == "metadata" for name in self.request.query_params):
            raise InvalidRequest(_("Jobs keep no metadata to be found by."), param="metadata")

    def _job(self) -> TrainingJob:
        return services.find(actor_of(self.request), self.kwargs["pk"])

    def _render(self, job: TrainingJob) -> dict:
        return job_responses.render_job(job, job_responses.fine_tuned_models([job]).get(job.pk))


def start_job(actor, order: dict, request) -> TrainingJob:
    """Raises what services.start_training raises."""
    wanted = {"n_epochs": recipe.AUTO, "learning_rate_multiplier": recipe.AUTO} | _hyperparameters(order)
    fields = {HYPERPARAMETERS[name]: value for name, value in wanted.items()}
    if fields.get("batch_size") == recipe.AUTO:
        del fields["batch_size"]  # the default is the same for every model
    if fields["learning_rate"] != recipe.AUTO:
        fields["learning_rate"] = _rate(actor, order["model"], fields["learning_rate"])
    if order.get("seed") is not None:
        fields["seed"] = order["seed"]
    job, _warnings = services.start_training(
        actor, base_model=order["model"], dataset=order["training_file"], adapter=order.get("suffix") or "",
        recipe=recipe.read_fields(fields), request=request,
    )  # fmt: skip
    return job


def _unused_names(method: dict) -> list[str]:
    """Names within `method` that have no effect."""
    supervised = method.get("supervised") or {}
    unused = [f"method.{name}" for name in method if name not in ("type", "supervised", *OTHER_METHODS)]
    return unused + [f"method.supervised.{name}" for name in supervised if name != "hyperparameters"]


def _hyperparameters(order: dict) -> dict:
    """From `method`, and from the older field beside it. Raises InvalidRequest."""
    supervised = (order.get("method") or {}).get("supervised") or {}
    given = (order.get("hyperparameters") or {}) | (supervised.get("hyperparameters") or {})
    known = ", ".join(HYPERPARAMETERS)
    problem = _("There is no such hyperparameter. Expected one of: %(names)s.") % {"names": known}
    if problems := {f"hyperparameters.{name}": problem for name in given if name not in HYPERPARAMETERS}:
        raise InvalidRequest(details=problems)
    return given


def _rate(actor, model: str, multiplier) -> float:
    """The multiplier times the automatic rate for the model. Raises InvalidRequest."""
    least, most = MULTIPLIER_RANGE
    if isinstance(multiplier, bool) or not isinstance(multiplier, int | float) or not least <= multiplier <= most:
        problem = _("Expected auto, or a number from %(least)g to %(most)g.") % {"least": least, "most": most}
        raise InvalidRequest(problem, param="hyperparameters.learning_rate_multiplier")
    return recipe.automatic_rate(base_models.check(base_models.find(actor, model)).parameters) * multiplier


@contextmanager
def openai_field_names():
    """Makes errors name the fields that OpenAI's clients sent."""
    try:
        yield
    except PlatformError as error:
        error.param = PARAMS.get(error.param or "", error.param)
        error.details = {_openai_field(name): text for name, text in error.details.items()}
        raise


def _openai_field(field: str) -> str:
    for parent, fields in (("hyperparameters", {value: name for name, value in HYPERPARAMETERS.items()}), ("", PARAMS)):
        name = field.removeprefix("recipe.")
        if name in fields:
            return f"{parent}.{fields[name]}".lstrip(".")
    return field


def _parse_place(job: TrainingJob, after: str | None) -> int:
    """The place in a job's list to continue after. Raises InvalidRequest."""
    if after is None:
        return job_responses.END + 1
    owner, _colon, place = after.rpartition(":")
    if owner != job.pk or not (place.isascii() and place.isdigit()):
        raise InvalidRequest(_("There is nothing of this id to go on after."), param="after")
    return int(place[:12])
