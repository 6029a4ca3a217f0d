"""/ws/monitor: following the log of a model, in order, without loss, by those who may read it."""

import json
import socket
from contextlib import ExitStack

import pytest

from accounts import services
from accounts.models import ApiKey, Scope
from core import broker
from inference.logs import stream
from models_app.models import Model, Visibility
from monitoring.sockets import followed
from tests.inference.test_logs import empty_valkey, model, theirs, write  # noqa: F401
from tests.monitoring.test_sockets import (
    MODEL_STATUS,
    access,
    close_code,
    connections,
    is_cut,
    monitor,  # noqa: F401
    receive_message,
    send_frame,
    send_message,
    shake_hands,
)
from tests.support.uvicorn_server import address  # noqa: F401

LOGS = {"action": "subscribe", "events": ["logs"], "model_id": "ours"}


def follow_logs(ws, model, **options) -> None:  # noqa: F811
    assert send_message(ws, {**LOGS, "model_id": model.pk, **options})["model_id"] == model.pk


def lines(ws, count: int) -> list[dict]:
    found = [receive_message(ws) for _line in range(count)]
    assert {message["type"] for message in found} == {"log"}
    return [message["data"] for message in found]


def texts(ws, count: int) -> list[str]:
    return [line["message"] for line in lines(ws, count)]


def test_the_last_lines_are_told_and_then_each_new_one(monitor, viewer, model):  # noqa: F811
    write(model, "one", "two", "ERROR three")
    with monitor(access(viewer)) as ws:
        assert send_message(ws, {**LOGS, "lines": 2}) == {
            "type": "subscribed",
            "events": ["logs"],
            "model_id": model.pk,
        }
        two, three = lines(ws, 2)
        assert two.pop("id") < three.pop("id")
        assert three == {
            "model_id": model.pk, "timestamp": "2023-11-14T22:13:22Z", "level": "ERROR", "message": "ERROR three",
            "instance_id": "instance-a", "replica": 0,
        }  # fmt: skip
        write(model, "four", at=1_700_000_009)
        assert texts(ws, 1) == ["four"]


def test_over_a_reconnect_nothing_is_lost_or_doubled(monitor, viewer, model):  # noqa: F811
    write(model, "one", "two")
    with monitor(access(viewer)) as ws:
        follow_logs(ws, model)
        had = lines(ws, 2)[-1]["id"]
    many = [f"line {number}" for number in range(3 * followed.PAGE_LINES)]
    write(model, *many, at=1_700_000_100)
    with monitor(access(viewer)) as ws:
        follow_logs(ws, model, since=had)
        assert texts(ws, len(many)) == many
        write(model, "last", at=1_700_001_000)
        assert texts(ws, 1) == ["last"]


def test_all_that_is_kept_comes_after_the_first_id_of_all(monitor, viewer, model):  # noqa: F811
    write(model, *map(str, range(followed.MAX_LINES + 5)))
    with monitor(access(viewer)) as ws:
        follow_logs(ws, model, since="0-0")
        assert texts(ws, followed.MAX_LINES + 5)[0] == "0"


def test_a_model_that_never_ran_is_waited_for_beside_other_topics(monitor, viewer, model):  # noqa: F811
    with monitor(access(viewer)) as ws:
        topics = ["logs", "model_status"]
        assert send_message(ws, {**LOGS, "events": topics})["events"] == topics
        assert receive_message(ws)["type"] == "model_status_update"
        write(model, "first words")
        assert texts(ws, 1) == ["first words"]


def test_several_models_are_followed_by_one_socket_and_left_one_by_one(monitor, viewer, tenant, model):  # noqa: F811
    other = Model.objects.create(tenant=tenant, name="other")
    with monitor(access(viewer)) as ws:
        for followed_model in (model, other):
            follow_logs(ws, followed_model)
            write(followed_model, followed_model.name)
            assert texts(ws, 1) == [followed_model.name]
        assert send_message(ws, {**LOGS, "action": "unsubscribe", "model_id": model.pk})["type"] == "unsubscribed"
        write(model, "not told", at=1_700_000_100)
        write(other, "told", at=1_700_000_100)
        assert texts(ws, 1) == ["told"]
        assert send_message(ws, {"action": "unsubscribe", "events": ["logs"]})["type"] == "unsubscribed"
        write(other, "not told", at=1_700_000_200)
        assert send_message(ws, MODEL_STATUS)["type"] == "subscribed"
        assert {receive_message(ws)["type"], receive_message(ws)["type"]} == {"model_status_update"}


def test_one_socket_follows_a_few_models_only(monitor, viewer, tenant, model, monkeypatch):  # noqa: F811
    monkeypatch.setattr(followed, "MAX_MODELS", 1)
    other = Model.objects.create(tenant=tenant, name="other")
    with monitor(access(viewer)) as ws:
        follow_logs(ws, model)
        follow_logs(ws, model)
        assert send_message(ws, {**LOGS, "model_id": other.pk})["error"]["details"].keys() == {"model_id"}


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"model_id": None}, "model_id"), ({"model_id": ""}, "model_id"), ({"model_id": ["ours"]}, "model_id"),
        ({"lines": 0}, "lines"), ({"lines": 101}, "lines"), ({"lines": "5"}, "lines"), ({"lines": True}, "lines"),
        ({"lines": None}, "lines"), ({"since": "yesterday"}, "since"), ({"since": 5}, "since"),
        ({"since": "+"}, "since"), ({"since": "1-1\n"}, "since"),
    ],
    ids=str,
)  # fmt: skip
def test_a_wrong_wish_is_refused_by_name_and_the_socket_lives(monitor, viewer, model, options, field):  # noqa: F811
    with monitor(access(viewer)) as ws:
        reply = send_message(ws, {**LOGS, **options})
        assert (reply["type"], reply["error"]["code"]) == ("error", "INVALID_REQUEST")
        assert list(reply["error"]["details"]) == [field]
        follow_logs(ws, model)


def test_a_foreign_model_is_as_if_missing_and_anothers_public_one_has_no_log(monitor, stranger, model):  # noqa: F811
    with monitor(access(stranger)) as ws:
        for ref in (model.pk, model.name, "nothing", "\0"):
            assert send_message(ws, {**LOGS, "model_id": ref})["error"]["code"] == "MODEL_NOT_FOUND"
        Model.objects.filter(pk=model.pk).update(visibility=Visibility.PUBLIC)
        assert send_message(ws, {**LOGS, "model_id": model.pk})["error"]["code"] == "AUTHORIZATION_FAILED"


def test_an_operator_reads_every_log_with_paths_and_a_tenant_its_own_without(
    monitor,  # noqa: F811
    operator,
    viewer,
    model,  # noqa: F811
    theirs,  # noqa: F811
):
    write(model, "loading /srv/secret/weights.bin")
    write(theirs, "theirs")
    with monitor(access(operator)) as above, monitor(access(viewer)) as below:
        follow_logs(above, model)
        follow_logs(below, model)
        assert texts(above, 1) == ["loading /srv/secret/weights.bin"]
        assert texts(below, 1) == ["loading …/weights.bin"]
        follow_logs(above, theirs)
        assert texts(above, 1) == ["theirs"]


def test_a_model_that_may_no_longer_be_read_is_told_no_more_of(monitor, key, tenant, model):  # noqa: F811
    other = Model.objects.create(tenant=tenant, name="other")
    secret = key(scopes=[Scope.READ], allowed_models=[model.pk, other.pk])
    with monitor(secret) as ws:
        for followed_model in (model, other):
            follow_logs(ws, followed_model)
        ApiKey.objects.update(allowed_models=[other.pk])
        ended = receive_message(ws)["error"]
        assert (ended["code"], ended["details"]) == ("MODEL_NOT_FOUND", {"model_id": model.pk})
        write(model, "not told")
        write(other, "told")
        assert texts(ws, 1) == ["told"]
        services.revoke_key(ApiKey.objects.get())
        assert close_code(ws) == 4401


def test_a_deleted_models_log_ends(monitor, viewer, model):  # noqa: F811
    with monitor(access(viewer)) as ws:
        follow_logs(ws, model)
        model_id = model.pk
        model.delete()
        assert receive_message(ws)["error"]["details"] == {"model_id": model_id}


def test_lines_that_valkey_lost_and_got_again_are_told_once(monitor, viewer, model):  # noqa: F811
    write(model, "one", "two", "three")
    with monitor(access(viewer)) as ws:
        follow_logs(ws, model)
        assert texts(ws, 3) == ["one", "two", "three"]
        broker.client().flushdb()
        write(model, "one", "two", "three", "four")
        assert texts(ws, 1) == ["four"]


def test_followers_share_the_connections_to_valkey(monitor, viewer, model):  # noqa: F811
    before = len(connections("normal"))
    with ExitStack() as stack:
        for _socket in range(20):
            ws = stack.enter_context(monitor(access(viewer)))
            follow_logs(ws, model)
            write(model, "line")
            assert texts(ws, 1) == ["line"]
            broker.client().delete(*stream.keys(model.pk))
        assert len(connections("normal")) <= before + 12


def test_who_reads_nothing_is_dropped_in_the_midst_of_a_log(monitor, viewer, model, monkeypatch):  # noqa: F811
    monkeypatch.setattr("monitoring.sockets.consumers.SEND_TIMEOUT", 1)
    for part in range(10):
        write(model, *["x" * 3900] * 100, at=1_700_000_000 + 1000 * part)
    host, port = monitor.address.split(":")
    with monitor(access(viewer)) as reader, socket.create_connection((host, int(port))) as silent:
        silent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        shake_hands(silent, monitor.address, access(viewer))
        send_frame(silent, json.dumps({**LOGS, "since": "0-0"}).encode())
        while not is_cut(silent):
            pass
        follow_logs(reader, model, lines=1)
        assert len(lines(reader, 1)) == 1
