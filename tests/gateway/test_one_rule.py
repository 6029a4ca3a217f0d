"""What a reference means and who acts: every case through both doors, the REST API and the data plane, over real rows.

An expected outcome is the tenant and the name of what was found, or a status. Two outcomes where one is written as
Doors(rest=…, data_plane=…): the difference is meant, and the case says why.
"""

from dataclasses import dataclass, field
from datetime import timedelta
from urllib.parse import quote

import httpx
import pytest
from django.utils import timezone
from rest_framework.test import APIClient

from accounts import authentication, keys, services, tokens
from accounts.models import ApiKey, Role, Tenant, User
from gateway.config import GatewayConfig
from gateway.routing import snapshot as routing_snapshot
from gateway.routing.snapshot import RoutingSnapshot
from gateway.routing.snapshot_loader import PART_READERS
from gateway.routing.snapshot_refresher import connect
from models_app.models import Adapter, AdapterVersion, Model, ModelAlias, Visibility
from tests.support.gateway_server import served
from tests.support.user_fixtures import person

pytestmark = pytest.mark.django_db(transaction=True)


@dataclass(frozen=True)
class Doors:
    """The outcomes of one case where they are meant to differ."""

    rest: object
    data_plane: object


@dataclass(frozen=True)
class Case:
    """A model's reference and the headers of the request for it."""

    ref: str
    expected: object
    headers: dict[str, str] = field(default_factory=dict)


@pytest.fixture
def world(tenant, owner, member, stranger):
    """Acme with a model, an alias and adapters; the other tenant has public models of the same names."""
    own = add_model(tenant, "demo", "nick", "team/demo")
    theirs = stranger.default_tenant
    for name in ("shared", "demo", "nick", "facts", "draft"):
        add_model(theirs, name, *(["everyones"] if name == "shared" else []), visibility=Visibility.PUBLIC)
    add_model(theirs, "hidden")
    add_adapter(own, "facts", owner, published=True)
    add_adapter(own, "draft", member, published=False)
    return {f"{model.tenant.slug}/{model.name}": model.pk for model in Model.objects.select_related("tenant")}


def add_model(tenant: Tenant, name: str, *aliases: str, **fields) -> Model:
    model = Model.objects.create(tenant=tenant, name=name, **fields)
    ModelAlias.objects.bulk_create(ModelAlias(tenant=tenant, model=model, name=alias) for alias in aliases)
    return model


def add_adapter(base: Model, name: str, maker: User, *, published: bool) -> Adapter:
    adapter = Adapter.objects.create(tenant=base.tenant, name=name, base_model=base, created_by=maker)
    for number in (1, 2):
        version = AdapterVersion.objects.create(
            tenant=base.tenant, adapter=adapter, number=number, rank=8, size_bytes=1, sha256="", created_by=maker,
            published_at=timezone.now() if published else None,
        )  # fmt: skip
    if published:
        Adapter.objects.filter(pk=adapter.pk).update(current=version)
    return adapter


@pytest.fixture
def run(settings, monkeypatch):
    """run({name: case}) gives {name: outcome}, for each case through both doors."""
    monkeypatch.setattr(routing_snapshot, "NOTICE_TIMEOUT", 0)

    def through_both(cases: dict[str, Case]) -> dict[str, object]:
        with connect() as connection:
            parts = {part: read(connection.execute) for part, read in PART_READERS.items()}
        config = GatewayConfig.from_settings()
        with served(RoutingSnapshot(**parts), config) as gateway, gateway.client(None) as client:
            return {name: outcome(client, case) for name, case in cases.items()}

    return through_both


def outcome(client: httpx.Client, case: Case) -> object:
    rest, data_plane = ask_rest(case), ask_data_plane(client, case)
    return rest if rest == data_plane else Doors(rest, data_plane)


def ask_rest(case: Case) -> object:
    reply = APIClient(headers=case.headers).get(f"/api/models/{quote(case.ref, safe='')}")
    if reply.status_code != 200:
        return reply.status_code
    model = Model.objects.select_related("tenant").get(pk=reply.json()["id"])
    return f"{model.tenant.slug}/{model.name}"


def ask_data_plane(client: httpx.Client, case: Case) -> object:
    headers = {name: value.encode("latin-1") for name, value in case.headers.items()}
    reply = client.get(f"/v1/models/{quote(case.ref, safe='')}", headers=headers)
    if reply.status_code != 200:
        return reply.status_code
    card = reply.json()
    return f"{card['owned_by']}/{card['id']}" + (f" on {card['parent']}" if "parent" in card else "")


def check(run, cases: dict[str, Case]) -> None:
    assert run(cases) == {name: case.expected for name, case in cases.items()}


def bearer(who: User | str, **headers: str) -> dict[str, str]:
    credential = tokens.open_session(who)["access_token"] if isinstance(who, User) else who
    return {"Authorization": f"Bearer {credential}", **headers}


# --- what a reference means


def test_a_reference_means_the_same_through_both_doors(run, world, key):
    caller = bearer(key())
    expected = {
        "demo": "acme/demo",
        "nick": "acme/demo",
        "team/demo": "acme/demo",
        world["acme/demo"]: "acme/demo",
        "shared": "evil/shared",
        "everyones": "evil/shared",
        world["evil/shared"]: "evil/shared",
        world["evil/demo"]: "evil/demo",
        world["evil/facts"]: "evil/facts",
        "hidden": 404,
        world["evil/hidden"]: 404,
        "nothing": 404,
        "model-0": 404,
        "Demo": 404,
        # An adapter is served under its name; at the REST API it is no model, and still hides a public one.
        "facts": Doors(404, "acme/facts on demo"),
        "demo:facts": Doors(404, "acme/facts on demo"),
        "nick:facts": Doors(404, "acme/facts on demo"),
        "facts@2": Doors(404, "acme/facts on demo"),
        "demo:facts@2": Doors(404, "acme/facts on demo"),
        Adapter.objects.get(name="facts").pk: Doors(404, "acme/facts on demo"),
        "shared:facts": 404,
        "facts@3": 404,
        "draft": 404,  # on trial by somebody else: nobody gets the public model by surprise
        "draft@1": 404,
        # `default` stands for the model of a request that names none; only inference has such requests.
        "default": Doors(404, 400),
    }
    check(run, {ref: Case(ref, outcome, caller) for ref, outcome in expected.items()})


def test_a_keys_models_limit_what_it_may_use_and_not_what_a_name_means(run, world, key):
    facts = Adapter.objects.get(name="facts").pk
    public_twin = bearer(key(allowed_models=[world["evil/demo"], world["evil/shared"]]))
    own = bearer(key(allowed_models=[world["acme/demo"]]))
    adapter = bearer(key(allowed_models=[facts]))
    check(run, {
        "listed public": Case("shared", "evil/shared", public_twin),
        "listed public by id": Case(world["evil/demo"], "evil/demo", public_twin),
        "the name means the own model": Case("demo", 404, public_twin),
        "not listed": Case(world["acme/demo"], 404, public_twin),
        "listed own": Case("nick", "acme/demo", own),
        "not listed public": Case("shared", 404, own),
        "an adapter of a listed base": Case("facts", 404, own),
        "listed adapter": Case("facts", Doors(404, "acme/facts on demo"), adapter),
        "base of a listed adapter": Case("demo", 404, adapter),
    })  # fmt: skip


def test_a_maker_finds_the_adapter_on_trial(run, world, member):
    found = Doors(404, "acme/draft on demo")
    check(run, {ref: Case(ref, found, bearer(member)) for ref in ("draft", "draft@1", "demo:draft")})


def test_operators_see_all_models_until_they_name_a_tenant(run, world, tenant):
    at_home = person("rita", tenant, None, is_staff=True)
    alone = person("root", None, None, is_staff=True)
    as_acme = {"Serai-Tenant": "acme"}
    hidden = world["evil/hidden"]
    check(run, {
        "foreign by id": Case(hidden, "evil/hidden", bearer(at_home)),
        "own name first": Case("demo", "acme/demo", bearer(at_home)),
        # Inference is booked on a tenant, so a name means what it means there; REST has to manage all of them.
        "foreign by name": Case("hidden", Doors("evil/hidden", 404), bearer(at_home)),
        "no tenant at all": Case(hidden, Doors("evil/hidden", 403), bearer(alone)),
        "named tenant, own": Case("nick", "acme/demo", bearer(alone, **as_acme)),
        "named tenant, foreign by id": Case(hidden, 404, bearer(alone, **as_acme)),
        "named tenant, foreign by name": Case("hidden", 404, bearer(alone, **as_acme)),
    })  # fmt: skip


# --- who acts


@pytest.fixture
def here(tenant, stranger):
    """A model of one name in each tenant: what the name means tells for whom the caller acts."""
    for owner in Tenant.objects.all():
        add_model(owner, "here")


def check_callers(run, expected: dict[str, tuple[object, dict[str, str]]]) -> None:
    check(run, {name: Case("here", outcome, headers) for name, (outcome, headers) in expected.items()})


def test_a_credential_is_read_alike_through_both_doors(run, here, key, stranger):
    secret, token = key(), tokens.open_session(stranger)["access_token"]
    revoked, expired = key(), key(expires_at=timezone.now() - timedelta(seconds=1))
    ApiKey.objects.filter(digest=keys.digest(revoked)).update(revoked_at=timezone.now())
    over_long = "x" * 4097
    check_callers(run, {
        "nothing": (401, {}),
        "bearer key": ("acme/here", {"Authorization": f"Bearer {secret}"}),
        "lower case and spaces": ("acme/here", {"Authorization": f"bearer   {secret}"}),
        "bearer token": ("evil/here", {"Authorization": f"Bearer {token}"}),
        "key in X-API-Key": ("acme/here", {"X-API-Key": secret}),
        "token in X-API-Key": ("evil/here", {"X-API-Key": token}),
        "both: Authorization counts": ("evil/here", {"Authorization": f"Bearer {token}", "X-API-Key": secret}),
        "both, the first one wrong": (401, {"Authorization": "Bearer sk-serai-wrong", "X-API-Key": secret}),
        "both, another scheme": (401, {"Authorization": "Basic YTpi", "X-API-Key": secret}),
        "another scheme": (401, {"Authorization": f"Basic {secret}"}),
        "no scheme": (401, {"Authorization": secret}),
        "a scheme alone": (401, {"Authorization": "Bearer"}),
        "empty Authorization": (401, {"Authorization": ""}),
        "empty X-API-Key": (401, {"X-API-Key": ""}),
        "over-long": (401, {"Authorization": f"Bearer {over_long}"}),
        "over-long X-API-Key": (401, {"X-API-Key": f"sk-serai-{over_long}"}),
        "not ASCII": (401, {"X-API-Key": "sk-serai-é"}),
        "unknown key": (401, {"X-API-Key": f"{secret}x"}),
        "broken token": (401, {"Authorization": f"Bearer {token[:-2]}"}),
        "expired key": (401, {"X-API-Key": expired}),
        "revoked key": (401, {"X-API-Key": revoked}),
    })  # fmt: skip


def test_a_persons_tenant_is_chosen_alike_through_both_doors(run, here, key, tenant, member, stranger):
    theirs = stranger.default_tenant
    closed = services.create_tenant(slug="closed", name="Closed")
    two = person("tina", closed, Role.OWNER)
    services.add_member(theirs, two, Role.MEMBER)
    services.add_member(tenant, two, Role.VIEWER)
    wanderer = person("wanda", theirs, None)  # the default tenant is none of hers
    services.add_member(tenant, wanderer, Role.MEMBER)
    Tenant.objects.filter(pk=closed.pk).update(is_active=False)
    root, rita = person("root", None, None, is_staff=True), person("rita", theirs, None, is_staff=True)

    def named(who, name: str) -> dict[str, str]:
        return bearer(who, **{"Serai-Tenant": name})

    check_callers(run, {
        "default": ("acme/here", bearer(member)),
        "closed default: the oldest membership": ("evil/here", bearer(two)),
        "default without membership": ("acme/here", bearer(wanderer)),
        "named by slug": ("acme/here", named(two, "acme")),
        "named by id": ("acme/here", named(two, tenant.pk)),
        "named, foreign": (404, named(member, "evil")),
        "named, foreign by id": (404, named(member, theirs.pk)),
        "named, missing": (404, named(member, "nowhere")),
        "named, closed": (404, named(two, "closed")),
        "empty name": ("acme/here", named(member, "")),
        "a key keeps its tenant": ("acme/here", named(key(), "evil")),
        "operator, default": ("evil/here", bearer(rita)),
        "operator, named": ("acme/here", named(rita, "acme")),
        "operator, named by id": ("evil/here", named(root, theirs.pk)),
        "operator, missing": (404, named(root, "nowhere")),
        "operator, closed": (404, named(root, "closed")),
        # REST shows an operator without a tenant all models; inference is booked on a tenant.
        "operator without any": (Doors("acme/here", 403), bearer(root)),
    })  # fmt: skip


def test_a_person_without_any_tenant_is_known_and_may_do_nothing_for_one(run, here):
    nobody = person("nora", None, None)
    check_callers(run, {
        "no tenant": (403, bearer(nobody)),
        "a foreign one": (404, bearer(nobody, **{"Serai-Tenant": "acme"})),
    })  # fmt: skip
    assert authentication.actor_for_user(nobody).tenant is None  # no error: such a person may see the own profile


def test_without_a_credential_the_anonymous_tenant_acts_through_both_doors(run, here, settings):
    settings.ANONYMOUS_TENANT = "acme"
    check_callers(run, {
        "nothing": ("acme/here", {}),
        "wrong key": (401, {"X-API-Key": "sk-serai-wrong"}),
        "empty key": (401, {"X-API-Key": ""}),
        "named tenant": ("acme/here", {"Serai-Tenant": "evil"}),
    })  # fmt: skip
    settings.ANONYMOUS_TENANT = "nowhere"
    check_callers(run, {"a tenant that does not exist": (401, {})})
