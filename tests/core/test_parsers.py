"""What a body or a query names and no route knows: refused by its name, on every route that there is."""

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from rest_framework import serializers
from rest_framework.exceptions import ValidationError
from rest_framework.parsers import MultiPartParser

from accounts.models import ApiKey
from accounts.policy import Permission
from core.client_names import MAX_NAME_LENGTH, MAX_NAMES
from core.errors import flatten
from core.parsers import validated
from models_app.models import Model
from tests.accounts.test_policy import World, routes, world  # noqa: F401
from training.models import Dataset, TrainingJob

WITH_BODY = sorted(
    (route for route in routes() if route.method != "GET" and route.template.startswith("/api/")), key=str
)
UNKNOWN = {"no_such_field": 1}
ROW = b'{"prompt": "a", "completion": "b"}\n'


def send(world: World, route, body: dict):  # noqa: F811
    who = "operator" if route.permission == Permission.OPERATE else "owner"
    form = "multipart" if route.view.parser_classes == [MultiPartParser] else "json"
    path = route.template.format(world.rows.get(route.kind))
    return getattr(world.clients[who], route.method.lower())(path, body, format=form)


def wrong_fields(reply) -> dict[str, str]:
    details = reply.json()["error"]["details"]
    return {each["field"]: each["description"] for each in details} if isinstance(details, list) else details


@pytest.mark.parametrize("route", WITH_BODY, ids=str)
def test_every_route_refuses_a_field_that_it_does_not_know(world, route):  # noqa: F811
    reply = send(world, route, UNKNOWN)
    assert reply.status_code == (400 if route.template.startswith("/api/v1/") else 422), reply.content
    assert "no_such_field" in wrong_fields(reply), reply.content


def test_the_walk_meets_every_kind_of_write():
    assert {route.method for route in WITH_BODY} == {"POST", "PUT", "PATCH", "DELETE"}
    assert len(WITH_BODY) > 50


def test_the_error_names_the_fields_that_there_are(api, owner):
    reply = api(owner).post("/api/keys", {"name": "ci", "requests_per_minute": 3})
    assert reply.status_code == 422
    assert reply.json()["error"]["details"] == {
        "requests_per_minute": "There is no such field. Expected one of: name, role, scopes, allowed_models, "
        "expires_at."
    }
    assert ApiKey.objects.count() == 0
    below_v1 = api(owner).post("/api/v1/keys", {"name": "ci", "requests_per_minute": 3}).json()["error"]
    assert [(each["type"], each["field"]) for each in below_v1["details"]] == [
        ("invalid_request", "requests_per_minute")
    ]
    assert "没有这个字段" in api(owner, **{"Accept-Language": "zh-Hans"}).post("/api/keys", UNKNOWN).content.decode()


def test_a_route_without_a_body_says_so_and_does_nothing(world, api, owner):  # noqa: F811
    job = f"/api/training/jobs/{world.rows['training']}"
    reply = api(owner).post(f"{job}/cancel", {"reason": "too slow"})
    assert (reply.status_code, wrong_fields(reply)) == (422, {"reason": "This route takes no fields."})
    assert TrainingJob.objects.get().status == "queued"
    assert api(owner).post(f"{job}/cancel", {}).status_code == 200


def test_unknown_and_wrong_fields_are_told_together(api, owner):
    reply = api(owner).post("/api/models", {"name": "m", "replicas": 0, "replica": 2, "config": {"n_cxt": 1}})
    assert wrong_fields(reply).keys() == {"replicas", "replica"}
    assert Model.objects.count() == 0


def test_a_form_is_held_to_the_same(api, member, settings, tmp_path):
    settings.DATA_DIR = tmp_path
    form = {"file": SimpleUploadedFile("facts.jsonl", ROW), "purpose": "fine-tune"}
    reply = api(member).post("/api/datasets", form, format="multipart")
    assert (reply.status_code, list(wrong_fields(reply))) == (422, ["purpose"])
    assert Dataset.objects.count() == 0


@pytest.mark.parametrize(
    ("kind", "path", "verbs", "who"),
    [
        ("models", "/api/models/{}", ("put", "patch"), "owner"),
        ("models", "/api/v1/models/{}", ("put", "patch"), "owner"),
        ("tenants", "/api/tenants/{}", ("patch",), "operator"),
        ("members", "/api/members/{}", ("patch",), "owner"),
    ],
)
def test_a_reply_can_be_sent_back_as_it_came(world, kind, path, verbs, who):  # noqa: F811
    client, path = world.clients[who], path.format(world.rows[kind])
    before = client.get(path).json()
    for verb in verbs:
        assert getattr(client, verb)(path, before).status_code == 200
    after = client.get(path).json()
    assert {**after, "updated_at": ""} == {**before, "updated_at": before.get("updated_at") and ""} | {"updated_at": ""}
    refused = getattr(client, verbs[0])(path, before | UNKNOWN)
    assert (refused.status_code, list(wrong_fields(refused))) == (
        400 if "/v1/" in path else 422,
        ["no_such_field"],
    )


@pytest.mark.parametrize(("kind", "path"), [("keys", "/api/keys"), ("training", "/api/training/jobs")])
def test_a_row_that_was_read_makes_another_one(world, kind, path):  # noqa: F811
    client = world.clients["owner"]
    row = client.get(f"{path}/{world.rows[kind]}").json()
    given = {name: value for name, value in row.items() if name not in ("adapter", "recipe")}
    reply = client.post(path, given)
    assert "no such field" not in reply.content.decode()


def test_what_is_shown_but_not_taken_stays_as_it_is(world):  # noqa: F811
    client, path = world.clients["owner"], f"/api/models/{world.rows['models']}"
    assert client.patch(path, {"status": "running", "id": "model-mine", "tenant": "evil"}).status_code == 200
    assert client.get(path).json()["status"] == "created"
    reply = client.post("/api/keys", {"name": "ci", "secret": "sk-mine"})
    assert list(wrong_fields(reply)) == ["secret"]  # only the reply to POST shows it


def test_a_stranger_learns_nothing_by_a_wrong_field(world, api, stranger):  # noqa: F811
    path, missing = f"/api/models/{world.rows['models']}", "/api/models/model-0"
    replies = [api(stranger).patch(where, UNKNOWN) for where in (path, missing)]
    assert [reply.status_code for reply in replies] == [404, 404]


class Part(serializers.Serializer):
    size = serializers.IntegerField(required=False)
    made_at = serializers.DateTimeField(read_only=True)


class Whole(serializers.Serializer):
    part = Part(required=False)
    parts = Part(many=True, required=False)
    listed = serializers.ListField(child=Part(), required=False)
    free = serializers.DictField(required=False)
    seen = Part(read_only=True)


@pytest.mark.parametrize(
    ("data", "names"),
    [
        ({"part": {"size": 1, "colour": 2}}, {"part.colour"}),
        ({"parts": [{"size": 1}, {"colour": 2}]}, {"parts.1.colour"}),
        ({"listed": [{"colour": 2}]}, {"listed.0.colour"}),
        ({"part": {"made_at": "yesterday"}, "free": {"a": {"b": 1}}, "seen": {"colour": 2}}, set()),
        ({"part": 7, "whole": 1}, {"part.non_field_errors", "whole"}),
        ([], {"non_field_errors"}),
    ],
)
def test_nested_objects_are_read_to_their_ends_and_free_ones_left_alone(data, names):
    assert told(data) == names


def told(data) -> set[str]:
    try:
        validated(Whole, data)
    except ValidationError as error:
        return set(flatten(error.detail))
    return set()


def test_an_error_repeats_only_some_names_and_these_cut(api, owner):
    body = {f"{number}{'x' * 200}\n数": 1 for number in range(5000)}
    reply = api(owner).post("/api/keys", body | {"name": "ci"})
    names = wrong_fields(reply)
    assert (reply.status_code, len(names)) == (422, MAX_NAMES)
    assert all(len(name) <= MAX_NAME_LENGTH and name.isascii() for name in names)
    assert len(reply.content) < 10_000


def test_a_query_that_is_read_is_held_to_its_names(world, api, owner):  # noqa: F811
    client = api(owner)
    reply = client.get("/api/usage", {"groupby": "key"})
    assert wrong_fields(reply) == {
        "groupby": "There is no such query parameter. Expected one of: end_date, group_by, key_id, model_id, "
        "start_date."
    }
    for path in ("/api/monitoring/metrics", f"/api/models/{world.rows['models']}/logs", "/api/training/jobs"):
        refused = client.get(path, {"frm": "yesterday"})
        assert (refused.status_code, list(wrong_fields(refused))) == (422, ["frm"])
    assert client.get("/health", {"frm": "yesterday"}).status_code == 200  # reads none
