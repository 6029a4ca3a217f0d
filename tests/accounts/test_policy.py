"""Who may do what: the contract's table, written out a second time, against every route that there is."""

import re
import uuid
from dataclasses import asdict, dataclass
from types import SimpleNamespace

import pytest
from django.conf import settings
from django.contrib.admindocs.views import simplify_regex
from django.db import transaction
from django.urls import get_resolver
from drf_spectacular.views import SpectacularJSONAPIView, SpectacularRedocView, SpectacularSwaggerView
from rest_framework.views import APIView

from accounts import views
from accounts.models import ApiKey, Role, Scope
from accounts.permissions import PolicyPermission, required_permission
from accounts.policy import Permission
from core.tenancy import TenantQuerySet
from core.tenant_views import TenantScopedMixin
from inference.models import Task, TaskKind
from models_app.models import Adapter, Model
from models_app.views import ModelViewSet
from tests.support import adapter_files
from tests.support.message_catalogue import sources
from training.datasets import storage
from training.jobs.recipe import Hyperparameters
from training.models import Dataset, Format, TrainingJob

VIEWERS = {"viewer", "member", "admin", "owner", "operator"}
MEMBERS = VIEWERS - {"viewer"}
ADMINS = MEMBERS - {"member"}
ALLOWED = {  # row of the contract → roles, and scopes of a key whose role would allow it
    Permission.READ: (VIEWERS, {"read"}),
    Permission.LIST_MODELS: (VIEWERS, {"read", "inference"}),
    Permission.INFER: (MEMBERS, {"inference"}),
    Permission.TRAIN: (MEMBERS, {"training"}),
    Permission.RUN_MODELS: (MEMBERS, {"training", "models"}),
    Permission.MANAGE_MODELS: (ADMINS, {"models"}),
    Permission.MANAGE_MONITORING: (ADMINS, {"monitoring"}),
    Permission.MANAGE_TENANT: (ADMINS, set()),
    Permission.SCRAPE: ({"operator"}, set()),
    Permission.OPERATE: ({"operator"}, set()),
}
ROUTES = {  # a route that is missing here fails the walk
    "GET /": Permission.PUBLIC,
    "GET /health": Permission.PUBLIC,
    "GET /check_health": Permission.PUBLIC,
    "GET /metrics": Permission.SCRAPE,
    "GET /api/system/status": Permission.READ,
    "GET /api/system/gpu": Permission.OPERATE,
    "GET /api/monitoring/metrics": Permission.READ,
    "GET /api/monitoring/performance": Permission.READ,
    "POST /api/auth/token": Permission.PUBLIC,
    "POST /api/auth/token/refresh": Permission.PUBLIC,
    "POST /api/auth/token/revoke": Permission.PUBLIC,
    "POST /api/auth/ticket": Permission.READ,
    "GET /api/tenants": Permission.OPERATE,
    "POST /api/tenants": Permission.OPERATE,
    "GET /api/tenants/{}": Permission.OPERATE,
    "PATCH /api/tenants/{}": Permission.OPERATE,
    "GET /api/members": Permission.MANAGE_TENANT,
    "POST /api/members": Permission.MANAGE_TENANT,
    "GET /api/members/{}": Permission.MANAGE_TENANT,
    "PATCH /api/members/{}": Permission.MANAGE_TENANT,
    "DELETE /api/members/{}": Permission.MANAGE_TENANT,
    "GET /api/keys": Permission.MANAGE_TENANT,
    "POST /api/keys": Permission.MANAGE_TENANT,
    "GET /api/keys/{}": Permission.MANAGE_TENANT,
    "DELETE /api/keys/{}": Permission.MANAGE_TENANT,
    "POST /api/keys/{}/revoke": Permission.MANAGE_TENANT,
    "GET /api/audit": Permission.MANAGE_TENANT,
    "GET /api/config": Permission.OPERATE,
    "PUT /api/config": Permission.OPERATE,
    "GET /api/config/history": Permission.OPERATE,
    "GET /api/models": Permission.READ,
    "POST /api/models": Permission.MANAGE_MODELS,
    "GET /api/models/{}": Permission.READ,
    "PUT /api/models/{}": Permission.MANAGE_MODELS,
    "PATCH /api/models/{}": Permission.MANAGE_MODELS,
    "DELETE /api/models/{}": Permission.MANAGE_MODELS,
    "GET /api/models/all-models/info": Permission.READ,
    "GET /api/models/{}/info": Permission.READ,
    "POST /api/models/restart-autostart": Permission.RUN_MODELS,
    "POST /api/models/stop-all": Permission.RUN_MODELS,
    "GET /api/models/{}/estimate": Permission.READ,
    "GET /api/models/{}/explain": Permission.READ,
    "POST /api/models/{}/start": Permission.RUN_MODELS,
    "POST /api/models/{}/stop": Permission.RUN_MODELS,
    "POST /api/models/{}/restart": Permission.RUN_MODELS,
    "GET /api/devices/info": Permission.OPERATE,
    "GET /api/models/{}/crashes": Permission.READ,
    "GET /api/models/{}/logs": Permission.READ,
    "GET /api/models/{}/logs/stream": Permission.READ,
    "GET /api/logs/stats": Permission.READ,
    "POST /api/logs/{}/clear": Permission.RUN_MODELS,
    "GET /api/tasks": Permission.READ,
    "GET /api/tasks/{}": Permission.READ,
    "GET /api/usage": Permission.READ,
    "GET /api/adapters": Permission.READ,
    "GET /api/adapters/{}": Permission.READ,
    "DELETE /api/adapters/{}": Permission.TRAIN,
    "GET /api/adapters/{}/versions": Permission.READ,
    "GET /api/adapters/{}/download": Permission.TRAIN,
    "POST /api/adapters/{}/publish": Permission.MANAGE_MODELS,
    "POST /api/adapters/{}/unpublish": Permission.MANAGE_MODELS,
    "POST /api/adapters/{}/rollback": Permission.MANAGE_MODELS,
    "GET /api/datasets": Permission.READ,
    "POST /api/datasets": Permission.TRAIN,
    "GET /api/datasets/{}": Permission.READ,
    "DELETE /api/datasets/{}": Permission.TRAIN,
    "GET /api/datasets/{}/preview": Permission.READ,
    "GET /api/datasets/{}/tokens": Permission.READ,
    "GET /api/training/jobs": Permission.READ,
    "POST /api/training/jobs": Permission.TRAIN,
    "GET /api/training/jobs/{}": Permission.READ,
    "DELETE /api/training/jobs/{}": Permission.TRAIN,
    "POST /api/training/jobs/{}/pause": Permission.TRAIN,
    "POST /api/training/jobs/{}/resume": Permission.TRAIN,
    "POST /api/training/jobs/{}/cancel": Permission.TRAIN,
    "GET /api/training/jobs/{}/progress": Permission.READ,
    "GET /api/training/jobs/{}/logs": Permission.READ,
    "GET /api/training/jobs/{}/logs/stream": Permission.READ,
    "GET /v1/files": Permission.TRAIN,
    "POST /v1/files": Permission.TRAIN,
    "GET /v1/files/{}": Permission.TRAIN,
    "DELETE /v1/files/{}": Permission.TRAIN,
    "GET /v1/files/{}/content": Permission.TRAIN,
    "GET /v1/fine_tuning/jobs": Permission.TRAIN,
    "POST /v1/fine_tuning/jobs": Permission.TRAIN,
    "GET /v1/fine_tuning/jobs/{}": Permission.TRAIN,
    "POST /v1/fine_tuning/jobs/{}/cancel": Permission.TRAIN,
    "POST /v1/fine_tuning/jobs/{}/pause": Permission.TRAIN,
    "POST /v1/fine_tuning/jobs/{}/resume": Permission.TRAIN,
    "GET /v1/fine_tuning/jobs/{}/events": Permission.TRAIN,
    "GET /v1/fine_tuning/jobs/{}/checkpoints": Permission.TRAIN,
}
V1_ONLY = {
    "GET /api/v1/health": Permission.PUBLIC,
    "GET /api/v1/health/details": Permission.PUBLIC,
    "POST /api/v1/training/start": Permission.TRAIN,
    "GET /api/v1/training/status/{}": Permission.READ,
    "POST /api/v1/training/cancel/{}": Permission.TRAIN,
    "POST /api/v1/training/pause/{}": Permission.TRAIN,
    "POST /api/v1/training/resume/{}": Permission.TRAIN,
    "GET /api/v1/training/list": Permission.READ,
}
NOT_REST = {views.login_by_link}
SCHEMA_VIEWS = {SpectacularJSONAPIView, SpectacularSwaggerView, SpectacularRedocView}
SCOPED_BY_THEMSELVES = (ModelViewSet,)  # own rows and public ones


@dataclass(frozen=True)
class Route:
    method: str
    template: str  # with empty braces for what varies
    view: type[APIView]
    permission: Permission | None

    def __str__(self):
        return f"{self.method} {self.template}"

    @property
    def kind(self) -> str:
        """What its row is one of: the first part behind the address of the API."""
        return [*self.template.replace("/api/v1/", "/api/").split("/"), ""][2]


def callbacks(patterns=None, prefix=""):
    """Every (template, callback) below the URL configuration, the console's pages left out."""
    for pattern in patterns or get_resolver().url_patterns:
        text = prefix + str(pattern.pattern)
        if getattr(pattern, "app_name", None) == "admin":
            continue
        if hasattr(pattern, "url_patterns"):
            yield from callbacks(pattern.url_patterns, text)
        else:
            yield re.sub(r"<[^>]+>", "{}", simplify_regex(text)), pattern.callback


def routes() -> list[Route]:
    return [
        Route(method, template, callback.cls, permission)
        for template, callback in callbacks()
        if hasattr(callback, "cls") and callback.cls not in SCHEMA_VIEWS
        for method, permission in declared(callback)
    ]


def declared(callback):
    actions = getattr(callback, "actions", None) or {}
    names = actions or [name for name in callback.cls.http_method_names if hasattr(callback.cls, name)]
    for name in set(names) & set(callback.cls.http_method_names) - {"options", "head"}:
        view = SimpleNamespace(permissions=getattr(callback.cls, "permissions", {}), action=actions.get(name))
        yield name.upper(), required_permission(view, name.upper())


def test_every_route_needs_what_the_contract_says():
    found = {str(route): route.permission for route in routes() if not route.template.startswith("/api/v1/")}
    assert found == ROUTES


def test_the_same_holds_below_v1():
    rest = {str(route): route.permission for route in routes() if route.template.startswith("/api/v1/")}
    mirror = {name.replace(" /api/", " /api/v1/"): needs for name, needs in ROUTES.items() if " /api/" in name}
    assert rest == mirror | V1_ONLY


def test_every_view_asks_the_policy():
    assert {route.view.__name__ for route in routes() if route.view.permission_classes != [PolicyPermission]} == set()


def test_what_is_not_rest_is_known():
    assert {callback for _template, callback in callbacks() if not hasattr(callback, "cls")} == NOT_REST


def test_every_view_on_tenants_rows_is_cut_to_the_callers_own():
    leaky = {
        route.view.__name__
        for route in routes()
        if isinstance(getattr(route.view, "queryset", None), TenantQuerySet)
        and not issubclass(route.view, TenantScopedMixin)
        and not issubclass(route.view, SCOPED_BY_THEMSELVES)
    }
    assert leaky == set()


def test_a_view_that_declares_nothing_lets_nobody_in(operator):
    actor = SimpleNamespace(may=lambda permission: True, is_operator=False)
    request = SimpleNamespace(method="GET", auth=actor)
    view = type("Forgotten", (APIView,), {"get": lambda self, request: None})()
    assert not PolicyPermission().has_permission(request, view)


def dataset(tenant) -> Dataset:
    row = Dataset.objects.create(
        tenant=tenant, name="facts", version=1, format=Format.PROMPT, rows=1, characters=2, size_bytes=36
    )
    path = storage.path_of(row)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('{"prompt": "a", "completion": "b"}\n')
    return row


def training_job(model: Model, dataset_id: str) -> TrainingJob:
    return TrainingJob.objects.create(
        tenant=model.tenant,
        base_model=model,
        dataset_id=dataset_id,
        dataset_version=1,
        recipe=asdict(Hyperparameters()),
    )


def adapter(model: Model) -> Adapter:
    """Nobody is left who had it trained, so whoever may delete adapters may delete it."""
    source = adapter_files.write_folder(
        settings.DATA_DIR / "tenants" / model.tenant.slug / "training" / uuid.uuid4().hex
    )
    return adapter_files.save_version(model, source=source).adapter


class World:
    """Everybody's client, and one row of each kind that a route can name."""

    def __init__(self, api, key, people: dict, tenant):
        self.clients = {"nobody": api(), **{role: api(user) for role, user in people.items()}}
        for scope in Scope.values:
            self.clients[f"{scope} key"] = api(key(scopes=[scope]))
        self.clients["viewer's key"] = api(key(role=Role.VIEWER))
        model = Model.objects.create(tenant=tenant, name="ours")
        self.rows = {
            "tenants": tenant.pk,
            "members": people["viewer"].memberships.get().pk,
            "keys": ApiKey.objects.of(tenant).first().pk,
            "models": model.pk,
            "logs": model.pk,
            "tasks": Task.objects.create(tenant=tenant, model=model, kind=TaskKind.STOP).pk,
            "datasets": (data := dataset(tenant).pk),
            "files": data,
            "training": (job := training_job(model, data).pk),
            "fine_tuning": job,
            "adapters": adapter(model).pk,
        }

    def call(self, who: str, route: Route, row: str | None = None):
        """The reply; what was done is undone."""
        path = route.template.format(row or self.rows.get(route.kind))
        with transaction.atomic():
            reply = getattr(self.clients[who], route.method.lower())(path)
            transaction.set_rollback(True)
        return reply


@pytest.fixture
def world(api, key, tenant, owner, admin, member, viewer, operator, stranger):
    people = {"owner": owner, "admin": admin, "member": member, "viewer": viewer}
    return World(api, key, {**people, "operator": operator, "stranger": stranger}, tenant)


def expected_to_pass(who: str, permission: Permission) -> bool:
    if permission == Permission.PUBLIC:
        return True
    roles, scopes = ALLOWED[permission]
    if who == "viewer's key":
        return "viewer" in roles and bool(scopes)
    if who.endswith(" key"):
        return who.removesuffix(" key") in scopes
    return ("owner" if who == "stranger" else who) in roles


KNOWN = ROUTES | V1_ONLY
REST = sorted((route for route in routes() if str(route) in KNOWN), key=str)


@pytest.mark.parametrize("route", REST, ids=str)
def test_everybody_gets_the_answer_that_the_table_gives(world, route):
    wrong = {}
    for who in world.clients:
        status = world.call(who, route).status_code
        if expected_to_pass(who, KNOWN[str(route)]):
            right = (
                status == 404 if who == "stranger" and "{}" in route.template else status not in (401, 403, 404, 405)
            )
        else:
            right = status == (401 if who == "nobody" else 403)
        if not right:
            wrong[who] = status
    assert wrong == {}


@pytest.mark.parametrize("route", [route for route in REST if "{}" in route.template], ids=str)
def test_a_foreign_row_answers_as_a_missing_one(world, route):
    replies = [world.call("stranger", route, row).json() for row in (None, "missing-1")]
    texts = [
        str({**reply, "timestamp": "", "path": ""}).replace(str(world.rows[route.kind]), "missing-1")
        for reply in replies
    ]
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    "route", [route for route in REST if "{}" not in route.template and route.method == "GET"], ids=str
)
def test_no_list_shows_a_strangers_rows(world, route):
    reply = world.call("stranger", route)
    names = [str(row) for kind, row in world.rows.items() if kind != "members"]
    assert not [name for name in names if name in reply.content.decode()]


def test_the_anonymous_tenant_is_served_as_a_member(world, settings, api, tenant):
    settings.ANONYMOUS_TENANT = tenant.slug
    for route in REST:
        permission = KNOWN[str(route)]
        if permission != Permission.PUBLIC:
            status = world.call("nobody", route).status_code
            assert (status not in (401, 403)) == ("member" in ALLOWED[permission][0]), f"{route}: {status}"
    assert api("sk-serai-wrong").get("/api/models").status_code == 401


@pytest.mark.parametrize("pattern", [r"\(\*\*(self\.)?request\b", r"fields\s*=\s*.__all__"])
def test_no_request_reaches_the_orm_or_a_row_field_by_field(pattern):
    """Whatever a caller names in a query or body must have been named by us first."""
    assert [path.name for path in sources() if re.search(pattern, path.read_text(), re.MULTILINE)] == []
