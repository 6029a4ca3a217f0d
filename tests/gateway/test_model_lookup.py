"""The model that a reference means for a caller, decided over a snapshot."""

from dataclasses import replace

import pytest

from core import errors
from gateway.routing import model_lookup
from gateway.routing.snapshot import Caller, ModelEntry, RoutingSnapshot
from tests.support.gateway_server import ALICE, MALLORY, MODEL, TENANTS, key, snapshot

PUBLIC = ModelEntry("model-2", "tenant-m", "shared", ("everyones",), public=True)
HIDDEN = ModelEntry("model-3", "tenant-m", "hidden")
TWIN = ModelEntry("model-4", "tenant-m", "demo", public=True)
MODELS = (MODEL, PUBLIC, HIDDEN, TWIN)
WORLD = snapshot(models=MODELS)


def caller(secret: str, world: RoutingSnapshot = WORLD) -> Caller:
    return next(entry.caller for entry in world.keys.values() if entry.caller.key_id == f"key-{secret}")


def find(secret: str, ref: str | None, world: RoutingSnapshot = WORLD) -> str:
    return model_lookup.resolve_model(caller(secret, world), ref, world).id


def test_a_name_means_the_own_model_first_then_the_public_one():
    assert find(ALICE, "demo") == MODEL.id
    assert find(ALICE, "team/demo") == MODEL.id
    assert find(ALICE, "shared") == find(ALICE, "everyones") == PUBLIC.id
    assert find(MALLORY, "demo") == TWIN.id
    assert find(ALICE, MODEL.id) == MODEL.id
    assert find(ALICE, TWIN.id) == TWIN.id


@pytest.mark.parametrize("ref", ["nothing", "", "also-demo", MODEL.id, "../demo", "demo\x00"])
def test_another_tenants_model_is_missing_like_one_that_never_was(ref):
    with pytest.raises(errors.ModelNotFound) as caught:
        find(MALLORY, ref)
    assert caught.value.details == {"model_id": ref}


def test_a_key_for_certain_models_finds_only_these():
    world = snapshot(models=MODELS, keys=[key("sk-serai-narrow", "tenant-a", models=frozenset({PUBLIC.id}))])
    assert find("sk-serai-narrow", "shared", world) == PUBLIC.id
    with pytest.raises(errors.ModelNotFound):
        find("sk-serai-narrow", "demo", world)
    assert model_lookup.visible_models(caller("sk-serai-narrow", world), world) == [PUBLIC]


def test_no_model_means_the_tenants_default_one():
    world = snapshot(models=MODELS, tenants=[replace(TENANTS[0], default_model="also-demo"), TENANTS[1]])
    assert find(ALICE, None, world) == find(ALICE, "default", world) == MODEL.id
    with pytest.raises(errors.InvalidRequest) as caught:
        find(MALLORY, None, world)
    assert caught.value.param == "model"


def test_the_list_holds_what_the_caller_can_name():
    assert model_lookup.visible_models(caller(ALICE), WORLD) == [MODEL, PUBLIC]
    assert model_lookup.visible_models(caller(MALLORY), WORLD) == [PUBLIC, HIDDEN, TWIN]
