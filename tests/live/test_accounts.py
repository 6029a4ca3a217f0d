"""Credentials and the socket over all processes of the running product."""

import json

import httpx
from websockets.sync.client import connect

from tests.support.waiting import eventually

SOON = 30


def member_path(person, operator) -> str:
    found = operator.get("/api/members", params={"size": 100}).json()["items"]
    return next(f"/api/members/{item['id']}" for item in found if item["username"] == person.name)


def receive_message(ws) -> dict:
    return json.loads(ws.recv(timeout=SOON))


def test_the_one_time_link_of_the_console_is_offered_and_used_up(product):
    page = httpx.get(f"{product.base_url}/console/enter/invented")
    assert page.status_code == 200
    assert httpx.get(product.record["console_url"]).status_code == 200


def test_a_revoked_key_stops_on_every_surface(acme, owner):
    person = acme.key()
    assert person.get("/v1/models").status_code == 200
    assert owner.delete(f"/api/keys/{person.key_id}").status_code == 204
    assert person.get("/api/models").status_code == 401
    eventually(lambda: person.get("/v1/models").status_code == 401)


def test_a_key_can_no_more_than_its_maker_on_the_data_plane_too(acme, owner, operator):
    maker = acme.person("admin")
    secret = maker.post("/api/keys", json={"name": "mine", "scopes": ["inference"]}).json()["secret"]
    client = httpx.Client(base_url=maker.client.base_url, headers={"Authorization": f"Bearer {secret}"})
    eventually(lambda: client.get("/v1/models").status_code == 200)
    path = member_path(maker, operator)
    operator.patch(path, json={"role": "viewer"})
    body = {"model": "nothing", "messages": [{"role": "user", "content": "hello"}]}
    eventually(lambda: client.post("/v1/chat/completions", json=body).status_code == 403)
    operator.delete(path)
    eventually(lambda: client.get("/v1/models").status_code == 401)


def test_a_token_ends_with_its_log_in_on_the_data_plane_too(product, acme):
    person = acme.person("member")
    assert person.get("/v1/models").status_code == 200
    assert product.client().post("/api/auth/token/revoke", json={"token": person.credential}).status_code == 200
    eventually(lambda: person.get("/v1/models").status_code == 401)


def test_a_socket_hears_how_a_model_starts_and_stops(product, acme, member):
    name = acme.fake_model()
    model_id = member.get(f"/api/models/{name}").json()["id"]
    address = product.base_url.replace("http", "ws", 1) + "/ws/monitor"
    heard = []
    with connect(address, additional_headers={"Authorization": f"Bearer {member.credential}"}) as ws:
        ws.send(json.dumps({"action": "subscribe", "events": ["model_status"]}))

        def hear_until(status: str) -> None:
            while not heard or heard[-1] != status:
                event = receive_message(ws)
                if event["type"] == "model_status_update" and event["data"]["model_id"] == model_id:
                    heard.append(event["data"]["status"])

        hear_until("created")
        member.post(f"/api/models/{name}/start")
        hear_until("running")
        member.post(f"/api/models/{name}/stop")
        hear_until("stopped")
    assert list(dict.fromkeys(heard)) == ["created", "starting", "running", "stopping", "stopped"]
