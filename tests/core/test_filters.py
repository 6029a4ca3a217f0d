"""Filters of lists: a wrong value is refused with those that there are, an unknown filter with its name."""

import pytest

from models_app.models import Model
from tests.accounts.test_policy import routes

LISTS = sorted({route.template for route in routes() if getattr(route.view, "filter_backends", None)})
FILTERED = [path for path in LISTS if path.startswith("/api/") and "{}" not in path and path != "/api/config/history"]


def details(reply) -> dict:
    return reply.json()["error"]["details"]


@pytest.mark.parametrize(
    ("path", "name", "choices"),
    [
        ("/api/models", "framework", "vllm, llama.cpp"),
        ("/api/models", "status", "created, starting, running, stopping, stopped, error"),
        ("/api/models", "mode", "Chat, Embedding, Reranker"),
        ("/api/members", "role", "viewer, member, admin, owner"),
        ("/api/datasets", "format", "messages, prompt, instruction"),
        ("/api/tasks", "kind", "start, stop, restart"),
        ("/api/tenants", "is_active", "true, false"),
    ],
)
def test_a_wrong_value_is_refused_with_those_that_there_are(api, owner, operator, path, name, choices):
    client = api(operator if path == "/api/tenants" else owner)
    reply = client.get(path, {name: "bogus"})
    assert (reply.status_code, details(reply)) == (422, {name: f"Expected one of: {choices}."})
    first = choices.split(", ")[0]
    assert client.get(path, {name: first, "page": 1, "size": 5}).status_code == 200
    assert client.get(path, {name: ""}).status_code == 200


@pytest.mark.parametrize("path", ["/api/tasks", "/api/training/jobs"])
def test_states_are_told_too(api, owner, path):
    reply = api(owner).get(path, {"status": "bogus"})
    assert details(reply)["status"].startswith("Expected one of: queued" if "jobs" in path else "Expected one of: ")


@pytest.mark.parametrize("path", FILTERED)
def test_every_list_refuses_a_filter_that_it_does_not_know(api, owner, operator, path):
    for who in (owner, operator):
        reply = api(who).get(path, {"no_such_filter": 1})
        if reply.status_code != 403:
            break
    assert reply.status_code == (400 if path.startswith("/api/v1/") else 422)
    assert "no_such_filter" in str(details(reply))


def test_a_filter_still_chooses(api, owner, tenant, stranger):
    Model.objects.create(tenant=tenant, name="ours", framework="llama.cpp")
    Model.objects.create(tenant=tenant, name="other")
    Model.objects.create(tenant=stranger.default_tenant, name="theirs", framework="llama.cpp")
    items = api(owner).get("/api/models", {"framework": "llama.cpp"}).json()["items"]
    assert [item["name"] for item in items] == ["ours"]


def test_the_parameters_of_a_rows_other_routes_are_no_filters(api, owner):
    assert api(owner).get("/api/datasets/dataset-0/preview", {"rows": 5, "format": "x"}).status_code == 404
