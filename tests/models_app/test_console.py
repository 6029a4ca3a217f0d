"""Models in the console: operators are held to the API's rules, and what they delete goes through the service."""

import pytest

from accounts.models import AuditRecord
from inference.admin import CatalogueAdmin
from inference.models import EngineTokens, Instance, InstanceState, Reservation, Task, TaskKind
from models_app.models import Model, ModelAlias
from tests.support import instance_rows

LIST, ADD = "/console/models_app/model/", "/console/models_app/model/add/"


@pytest.fixture
def model(tenant) -> Model:
    return Model.objects.create(tenant=tenant, name="ours", config={"model_path": "serai-demo"})


@pytest.fixture
def console(operator, client):
    client.force_login(operator, backend="django.contrib.auth.backends.ModelBackend")
    return client


def form(tenant, **fields) -> dict:
    """What the console's page of a model sends."""
    aliases = {f"aliases-{name}_FORMS": number for name, number in (("TOTAL", 0), ("INITIAL", 0))}
    return {
        "tenant": tenant.pk, "name": "m", "framework": "vllm", "mode": "Chat", "visibility": "private", "priority": 5,
        "config": '{"model_path": "serai-demo"}', "resource_requirements": "", "tags": "", "idle_timeout": 0,
        "wait_timeout": 60, "replicas": 1, **aliases, **fields,
    }  # fmt: skip


def test_an_operator_adds_a_model_in_the_console(console, tenant):
    assert console.post(ADD, form(tenant)).status_code == 302
    made = Model.objects.get()
    assert (made.tenant, made.config, made.resource_requirements) == (tenant, {"model_path": "serai-demo"}, {})
    change = f"/console/models_app/model/{made.pk}/change/"
    assert console.post(change, form(tenant, priority=9)).status_code == 302
    assert Model.objects.get().priority == 9


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"config": '{"trust_remote_code": true}'}, "trust_remote_code: This option is refused"),
        ({"config": '{"kv_cache_bytes": "much"}'}, "kv_cache_bytes: Expected"),
        ({"config": '{"model_path": "../../private"}'}, "must not lead upwards"),
        ({"config": "[1]"}, "Expected an object"),
        ({"framework": "sglang"}, "vllm, llama.cpp"),
        ({"name": "stop-all"}, "reserved name"),
        ({"name": "taken"}, "exists already"),
    ],
)
def test_the_console_holds_operators_to_the_same_rules(console, tenant, model, fields, said):
    ModelAlias.objects.create(tenant=tenant, model=model, name="taken")
    page = console.post(ADD, form(tenant, **fields))
    assert page.status_code == 200
    assert said in page.content.decode()
    assert Model.objects.count() == 1


def rows(*names: str, model: Model | None = None) -> dict:
    """Alias rows of the page: those of `model` stay as they are, `names` are new."""
    old = list(model.aliases.all()) if model else []
    fields = {"aliases-TOTAL_FORMS": len(old) + len(names), "aliases-INITIAL_FORMS": len(old)}
    for number, alias in enumerate(old):
        fields |= {f"aliases-{number}-id": alias.pk, f"aliases-{number}-name": alias.name}
    for number, name in enumerate(names, len(old)):
        fields[f"aliases-{number}-name"] = name
    return fields


def test_aliases_are_given_and_taken_away(console, tenant, api, owner):
    assert console.post(ADD, form(tenant, **rows("first", "team/second"))).status_code == 302
    made = Model.objects.get()
    assert api(owner).get("/api/models/team/second").json()["aliases"] == ["first", "team/second"]
    change = f"{LIST}{made.pk}/change/"
    fields = rows("third", model=made) | {"aliases-0-DELETE": "on"}
    assert console.post(change, form(tenant, **fields)).status_code == 302
    assert sorted(made.aliases.values_list("name", flat=True)) == ["team/second", "third"]
    swapped = rows(model=made) | {"aliases-0-name": "third", "aliases-1-name": "team/second"}
    assert console.post(change, form(tenant, **swapped)).status_code == 302
    assert set(made.aliases.values_list("tenant", flat=True)) == {tenant.pk}


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["stop-all"], "reserved name"), (["a/start"], "reserved name"), (["../x"], "visible characters"),
        (["ours"], "ours: A model or alias"), (["theirs"], "theirs: A model or alias"), (["m"], "occurs twice"),
        (["twice", "twice"], "occurs twice"),
    ],
)  # fmt: skip
def test_aliases_are_held_to_the_same_rules(console, tenant, model, names, said):
    ModelAlias.objects.create(tenant=tenant, model=model, name="theirs")
    page = console.post(ADD, form(tenant, **rows(*names)))
    assert page.status_code == 200
    assert said in page.content.decode()
    assert Model.objects.get() == model
    assert ModelAlias.objects.count() == 1


def test_another_tenants_names_are_free_here(console, tenant, stranger):
    Model.objects.create(tenant=stranger.default_tenant, name="theirs")
    assert console.post(ADD, form(tenant, **rows("theirs"))).status_code == 302


def has_run(model: Model) -> Instance:
    """With everything that a run leaves behind."""
    instance = instance_rows.instance(model, InstanceState.STOPPED)
    Task.objects.create(tenant=model.tenant, model=model, kind=TaskKind.START)
    EngineTokens.objects.create(instance=instance, generation=1)
    ModelAlias.objects.create(tenant=model.tenant, model=model, name="alias")
    return instance


def test_a_model_that_has_run_is_deleted(console, operator, model):
    has_run(model)
    page = console.get(f"{LIST}{model.pk}/delete/").content.decode()
    assert "ours" in page
    assert "would require deleting" not in page
    assert console.post(f"{LIST}{model.pk}/delete/", {"post": "yes"}).status_code == 302
    assert (Model.objects.count(), Instance.objects.count(), Task.objects.count()) == (0, 0, 0)
    (record,) = AuditRecord.objects.filter(action="model.delete")
    assert (record.actor, record.object_id, record.tenant_id) == (operator.username, model.pk, model.tenant_id)


def test_several_are_deleted_at_once(console, tenant, model):
    has_run(model)
    Model.objects.create(tenant=tenant, name="other")
    chosen = {"action": "delete_selected", "_selected_action": [row.pk for row in Model.objects.all()]}
    assert "Are you sure" in console.post(LIST, chosen).content.decode()
    console.post(LIST, chosen | {"post": "yes"})
    assert Model.objects.count() == 0
    assert AuditRecord.objects.filter(action="model.delete").count() == 2


@pytest.mark.parametrize("state", [InstanceState.PENDING, InstanceState.READY, InstanceState.DRAINING])
def test_a_running_model_is_not_deleted(console, model, state):
    instance_rows.reserve(instance_rows.instance(model, state), 1)
    for data in ({}, {"post": "yes"}):
        page = console.post(f"{LIST}{model.pk}/delete/", data, follow=True)
        assert "ours is running. Stop it first." in page.content.decode()
    chosen = {"action": "delete_selected", "_selected_action": [model.pk], "post": "yes"}
    assert "ours is running. Stop it first." in console.post(LIST, chosen).content.decode()
    assert (Model.objects.count(), Reservation.objects.count()) == (1, 1)


def test_what_changed_since_the_page_was_made_is_told(console, tenant, model, monkeypatch):
    """A stop, start or deletion by somebody else, between Django's look at the row and the service's."""
    found = Model.objects.get()
    monkeypatch.setattr(CatalogueAdmin, "get_object", lambda *_arguments: found)
    model.delete()
    for page, fields in (("change", form(tenant)), ("delete", {"post": "yes"})):
        reply = console.post(f"{LIST}{found.pk}/{page}/", fields, follow=True)
        assert "The model does not exist." in reply.content.decode()
    assert not Model.objects.exists()


def test_nobody_but_operators_deletes_here(client, owner, model):
    client.force_login(owner, backend="django.contrib.auth.backends.ModelBackend")
    assert client.post(f"{LIST}{model.pk}/delete/", {"post": "yes"}).status_code == 302
    assert Model.objects.count() == 1
