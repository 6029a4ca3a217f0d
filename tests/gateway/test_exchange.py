"""The data plane over HTTP under a real server, with a fake engine behind it."""

import json
import socket
import time
import uuid
from dataclasses import replace

import openai
import pytest

from accounts.models import Scope
from accounts.tokens import Claims
from core import errors
from gateway.api.stream_relay import TokenUsage
from gateway.app import handles
from gateway.routing.snapshot import UserEntry
from tests.support.gateway_server import (
    ALICE,
    CONFIG,
    MALLORY,
    MODEL,
    EngineProcess,
    chat,
    engine_folder,
    instance,
    key,
    served,
    snapshot,
)

READER, NARROW = "sk-serai-reader", "sk-serai-narrow"
KEYS = [
    key(READER, "tenant-a", scopes=frozenset({Scope.READ})),
    key(NARROW, "tenant-a", models=frozenset({"model-9"})),
]
USERS = [UserEntry("user-1", roles={"tenant-a": "member"}), UserEntry("user-2", roles={"tenant-a": "viewer"})]


def verify(token: str) -> Claims:
    if token not in ("user-1", "user-2"):
        raise errors.Unauthenticated()
    return Claims(token, str(uuid.uuid4()), time.time() + 60)


@pytest.fixture(scope="module")
def engine():
    with engine_folder() as folder:
        yield EngineProcess(folder)


@pytest.fixture(scope="module")
def world(engine):
    return snapshot(instance(engine.endpoint), keys=KEYS, users=USERS)


@pytest.fixture(scope="module")
def gateway(world):
    with served(world, replace(CONFIG, max_body=100_000), verify) as running:
        yield running


@pytest.fixture
def client(gateway):
    gateway.ledger.clear()
    with gateway.client() as session:
        yield session


def events(reply) -> list[dict]:
    assert reply.text.endswith("data: [DONE]\n\n")
    return [json.loads(line[6:]) for line in reply.text.split("\n\n")[:-2]]


def error_of(reply) -> dict:
    assert set(reply.json()) == {"error"}
    return reply.json()["error"]


def test_a_whole_chat_is_answered_in_openais_form_and_metered(client, gateway):
    reply = client.post("/v1/chat/completions", json=chat("one two", max_tokens=3))
    body = reply.json()
    assert body["choices"] == [{
        "index": 0, "finish_reason": "length", "logprobs": None,
        "message": {"role": "assistant", "content": "token0 token1 token2", "refusal": None},
    }]  # fmt: skip
    assert body["model"] == "demo"
    counts = {"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6, "cache_n": 0, "prompt_n": 3}
    assert counts.items() <= body["usage"].items()
    [record] = gateway.ledger.wait()
    assert (record.status, record.http_status, record.usage) == ("ok", 200, TokenUsage(3, 3, 0))
    assert (record.tenant_id, record.key_id, record.model_id) == ("tenant-a", f"key-{ALICE}", MODEL.id)
    assert (record.instance_id, record.generation, record.stream) == ("instance-1", 1, False)
    assert record.route == "chat.completions"
    assert body["id"] == f"chatcmpl-{record.request_id}"


def test_a_stream_is_passed_on_without_the_counts_put_in_for_us(client, gateway):
    reply = client.post("/v1/chat/completions", json=chat("one two", max_tokens=3, stream=True))
    assert reply.headers["content-type"].startswith("text/event-stream")
    said = [event["choices"][0]["delta"].get("content") for event in events(reply)]
    assert said == ["", "token0", " token1", " token2"]
    assert "usage" not in reply.text
    [record] = gateway.ledger.wait()
    assert (record.status, record.usage, record.stream) == ("ok", TokenUsage(3, 3, 0), True)
    assert record.ttft_ms is not None


def test_usage_in_a_stream_for_those_who_ask(client):
    asked = chat(max_tokens=2, stream=True, stream_options={"include_usage": True})
    *rest, last = events(client.post("/v1/chat/completions", json=asked))
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 2
    assert not any("usage" in event for event in rest)


def test_several_choices_and_prompts_are_metered_together(client, gateway):
    asked = {"model": "demo", "prompt": ["a b", "c"], "n": 2, "max_tokens": 3}
    assert len(client.post("/v1/completions", json=asked).json()["choices"]) == 4
    client.post("/v1/completions", json={**asked, "stream": True})
    assert [record.usage for record in gateway.ledger.wait(2)] == [TokenUsage(3, 12, 0)] * 2


def test_the_engine_gets_what_was_checked_under_its_own_name_for_the_model(client):
    asked = chat("[[echo]]", model="also-demo", cache_salt="mine", user="me", priority=1, seed=7)
    received = json.loads(client.post("/v1/chat/completions", json=asked).json()["choices"][0]["message"]["content"])
    assert received.pop("cache_salt") not in ("mine", None)
    messages = [{"role": "user", "content": "[[echo]]"}]
    assert received == {"messages": messages, "seed": 7, "user": "tenant-a", "model": "demo"}


@pytest.mark.parametrize("ref", ["demo", "also-demo", "team%2Fdemo", "team/demo", MODEL.id])
@pytest.mark.parametrize("base", ["/api/models", "/api/v1/models"])
def test_the_rest_routes_take_id_name_or_alias_in_the_path(client, base, ref):
    reply = client.post(f"{base}/{ref}/generate", json={"prompt": "Hello", "max_tokens": 2, "top_k": 40}).json()
    assert reply["id"].startswith("gen-")
    assert reply["choices"][0]["text"] == "token0 token1"
    said = client.post(f"{base}/{ref}/chat/completions", json=chat(max_tokens=1, model="ignored")).json()
    assert said["choices"][0]["message"]["content"] == "token0"


def test_the_rest_routes_stream_too(client):
    reply = client.post("/api/models/demo/generate", json={"prompt": "x", "max_tokens": 2, "stream": True})
    assert [event["choices"][0]["text"] for event in events(reply)] == ["token0", " token1"]


def test_tokens_of_a_text_and_back(client):
    assert client.post("/tokenize", json={"model": "demo", "prompt": "a b c"}).json()["count"] == 3
    assert client.post("/detokenize", json={"model": "demo", "tokens": [1, 2]}).json() == {"prompt": "token1 token2"}


def test_models_are_listed_with_their_aliases_to_those_who_may_use_them(gateway, client):
    card = {"id": "demo", "object": "model", "created": 1_700_000_000, "owned_by": "acme",
            "aliases": ["also-demo", "team/demo"], "max_model_len": 4096}  # fmt: skip
    assert client.get("/v1/models").json() == {"object": "list", "data": [card]}
    for ref in ("demo", "also-demo", "team/demo", "team%2Fdemo", MODEL.id):
        assert client.get(f"/v1/models/{ref}").json() == card
    with gateway.client(MALLORY) as mallory, gateway.client(NARROW) as narrow, gateway.client(READER) as reader:
        for stranger in (mallory, narrow):
            assert stranger.get("/v1/models").json()["data"] == []
            assert stranger.get("/v1/models/demo").status_code == 404
        assert reader.get("/v1/models").json()["data"] == [card]


@pytest.mark.parametrize(
    ("path", "body"),
    [("/v1/chat/completions", chat()), ("/v1/completions", {"model": "demo", "prompt": "x"}),
     ("/tokenize", {"model": "demo", "prompt": "x"}), ("/api/models/demo/generate", {"prompt": "x"})],
)  # fmt: skip
def test_each_route_refuses_strangers_and_those_who_may_not(gateway, path, body):
    refused = {None: 401, "sk-serai-wrong": 401, READER: 403, MALLORY: 404, NARROW: 404, "user-2": 403}
    expected = {**refused, ALICE: 200, "user-1": 200}
    found = {}
    for secret in expected:
        with gateway.client(secret) as caller:
            found[secret] = caller.post(path, json=body).status_code
    assert found == expected


def test_a_stranger_learns_nothing_from_a_foreign_models_name(gateway):
    with gateway.client(MALLORY) as mallory:
        foreign, missing = (
            mallory.post("/v1/chat/completions", json=chat(model=name)).text.replace(name, "NAME")
            for name in ("demo", "omed")
        )
    assert foreign == missing
    assert "model_not_found" in foreign


def test_a_credential_is_asked_for_before_the_body_is_looked_at(gateway):
    with gateway.client(None) as nobody:
        reply = nobody.post("/v1/chat/completions", content=b"{")
    assert reply.status_code == 401
    assert error_of(reply)["code"] == "invalid_api_key"
    assert reply.headers["www-authenticate"].startswith("Bearer")


def test_a_wrong_field_is_named_on_both_surfaces(client):
    reply = client.post("/v1/chat/completions", json=chat(temperature=9))
    assert reply.status_code == 400
    assert (error_of(reply)["type"], error_of(reply)["param"]) == ("invalid_request_error", "temperature")
    rest = client.post("/api/models/demo/generate", json={"prompt": "x", "temperature": 9})
    assert rest.status_code == 422
    assert rest.json()["error"]["code"] == "INVALID_REQUEST"
    assert "temperature" in rest.json()["error"]["details"]
    versioned = client.post("/api/v1/models/demo/generate", json={"temperature": 9}).json()
    assert versioned["error"]["details"][0]["field"] == "temperature"


def test_what_is_no_json_or_too_large_is_refused(client, gateway):
    assert client.post("/v1/chat/completions", content=b"{").status_code == 400
    assert client.post("/v1/chat/completions", content=b"x" * 100_001).status_code == 413
    parts = (b"x" * 10_000 for _ in range(20))
    assert client.post("/v1/chat/completions", content=parts).status_code == 413
    assert gateway.ledger == []


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
RESPONSE_TOOL = {"type": "function", "name": "f", "parameters": {"type": "object"}}
MESSAGE_TOOL = {"name": "f", "input_schema": {"type": "object"}}


@pytest.mark.parametrize("choice", [{}, {"tool_choice": "auto"}, {"tool_choice": "none"}])
def test_an_empty_list_of_tools_counts_as_none_at_all(client, choice):
    reply = client.post("/v1/chat/completions", json=chat("[[echo]]", tools=[], **choice))
    received = json.loads(reply.json()["choices"][0]["message"]["content"])
    assert not {"tools", "tool_choice"} & set(received)
    for path, fields in (("/v1/responses", {"input": "x"}), ("/v1/messages", chat(max_tokens=2))):
        assert client.post(path, json={"model": "demo", "tools": [], **fields}).status_code == 200


@pytest.mark.parametrize(
    ("path", "fields", "choice"),
    [
        ("/v1/chat/completions", chat(tools=[TOOL]), {"type": "function", "function": {"name": "g"}}),
        ("/v1/responses", {"input": "x", "tools": [RESPONSE_TOOL]}, {"type": "function", "name": "g"}),
        ("/v1/messages", chat(max_tokens=2, tools=[MESSAGE_TOOL]), {"type": "tool", "name": "g"}),
    ],
)
def test_a_choice_of_a_tool_that_is_not_there_is_named(client, path, fields, choice):
    reply = client.post(path, json={"model": "demo", **fields, "tool_choice": choice})
    assert (reply.status_code, reply.json()["error"]["type"]) == (400, "invalid_request_error")
    assert reply.json()["error"]["message"] == "tool_choice: names no tool of this request."
    known = json.loads(json.dumps(choice).replace('"g"', '"f"'))
    assert client.post(path, json={"model": "demo", **fields, "tool_choice": known}).status_code == 200


def test_an_assistants_empty_list_of_content_counts_as_no_content(client):
    turns = [{"role": "assistant", "content": [], "tool_calls": [CALL]},
             {"role": "tool", "tool_call_id": "c", "content": "7"}]  # fmt: skip
    body = chat() | {"messages": [*chat()["messages"], *turns, *chat("[[echo]]")["messages"]]}
    reply = client.post("/v1/chat/completions", json=body)
    received = json.loads(reply.json()["choices"][0]["message"]["content"])
    assert received["messages"][1] == {"role": "assistant", "tool_calls": [CALL]}
    for turn in ({"role": "user", "content": []}, {"role": "assistant", "content": []}):
        refused = client.post("/v1/chat/completions", json=chat() | {"messages": [turn]})
        assert (refused.status_code, error_of(refused)["param"][:11]) == (400, "messages[0]")


@pytest.mark.parametrize("path", ["/v1/completions", "/api/models/demo/generate"])
def test_a_suffix_is_refused_and_not_dropped(client, path):
    body = {"model": "demo", "prompt": "def f(", "max_tokens": 2}
    assert "suffix" in client.post(path, json={**body, "suffix": ")"}).json()["error"]["message"]
    for nothing in ("", None):
        assert client.post(path, json={**body, "suffix": nothing}).status_code == 200


def test_a_text_with_two_limits_is_told_both(client):
    reply = client.post("/v1/chat/completions", json=chat(model=""))
    assert error_of(reply)["message"] == "model: must have between 1 and 300 characters."


def test_the_list_of_models_may_end_with_a_slash(client):
    assert client.get("/v1/models/").json() == client.get("/v1/models").json()


@pytest.mark.parametrize("path", ["//v1/models", "//v1/chat/completions", "///v1"])
def test_a_base_url_with_a_slash_at_its_end_is_told_in_openais_form(client, path):
    with socket.create_connection(("127.0.0.1", client.base_url.port)) as raw:
        raw.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        head, _, body = b"".join(iter(lambda: raw.recv(65536), b"")).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 404")
    error = json.loads(body)["error"]
    assert (error["type"], "end the base URL without a slash" in error["message"]) == ("invalid_request_error", True)
    assert handles({"type": "http", "path": path})
    assert not handles({"type": "http", "path": "/v10/models"})


def test_unknown_routes_and_methods_have_openais_error_form(client):
    for path in ("/v1/nothing", "/v1/files", "/v1/load_lora_adapter", "/v1/", "/v1"):
        reply = client.post(path, json=chat())
        assert (reply.status_code, error_of(reply)["type"]) == (404, "invalid_request_error")
    for method, path in (("GET", "/v1/chat/completions"), ("DELETE", "/v1/models"), ("PUT", "/tokenize")):
        reply = client.request(method, path)
        assert (reply.status_code, error_of(reply)["type"]) == (405, "invalid_request_error")
    rest = client.get("/api/models/demo/generate")
    assert (rest.status_code, rest.json()["success"]) == (405, False)


def test_every_answer_has_a_request_id_the_callers_own_if_it_is_harmless(client):
    assert uuid.UUID(client.get("/v1/models").headers["x-request-id"])
    kept = client.get("/v1/models", headers={"x-request-id": "trace-7"})
    assert kept.headers["x-request-id"] == "trace-7"
    odd = client.post("/v1/chat/completions", json=chat(), headers={"x-request-id": "a b<script>"})
    assert "script" not in odd.headers["x-request-id"]


def test_people_use_tokens_and_name_their_tenant(gateway):
    with gateway.client("user-1") as person:
        assert person.post("/v1/chat/completions", json=chat()).status_code == 200
        reply = person.post("/v1/chat/completions", json=chat(), headers={"serai-tenant": "mall"})
        assert reply.status_code == 404
    record = gateway.ledger.wait()[-1]
    assert (record.user_id, record.key_id) == ("user-1", None)


def test_a_cookie_is_no_credential_here(gateway):
    with gateway.client(None, cookies={"serai_session": "x"}) as browser:
        assert browser.get("/v1/models").status_code == 401


def test_a_key_made_a_moment_ago_is_waited_for_and_a_revoked_one_is_gone(gateway, world, engine):
    with gateway.client("sk-serai-new") as newcomer:
        gateway.loop.call_soon_threadsafe(
            gateway.loop.call_later, 0.1, gateway.source.publish,
            snapshot(instance(engine.endpoint), keys=[*KEYS, key("sk-serai-new", "tenant-a")], users=USERS),
        )  # fmt: skip
        assert newcomer.post("/v1/chat/completions", json=chat()).status_code == 200
        gateway.publish(world)
        assert newcomer.post("/v1/chat/completions", json=chat()).status_code == 401


def test_the_stock_openai_client_works(gateway):
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=ALICE, max_retries=0) as sdk:
        assert [model.id for model in sdk.models.list()] == ["demo"]
        whole = sdk.chat.completions.create(**chat(max_tokens=2))
        assert whole.choices[0].message.content == "token0 token1"
        assert whole.usage.total_tokens == 4
        with sdk.chat.completions.create(**chat(max_tokens=2), stream=True) as stream:
            assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "token0 token1"
        with pytest.raises(openai.BadRequestError) as caught:
            sdk.chat.completions.create(**chat(n=99))
        assert caught.value.param == "n"
        with pytest.raises(openai.NotFoundError) as missing:
            sdk.chat.completions.create(**chat(model="nothing"))
        assert missing.value.code == "model_not_found"


def test_without_a_snapshot_the_answer_is_to_come_back_later():
    with served(None) as starting, starting.client() as session:
        reply = session.post("/v1/chat/completions", json=chat())
    assert reply.status_code == 503
    assert error_of(reply)["code"] == "service_unavailable"
    assert reply.headers["retry-after"]


def test_everybody_may_use_the_tenant_that_the_operator_opened(world):
    with served(world, replace(CONFIG, anonymous="acme")) as open_house, open_house.client(None) as anyone:
        assert anyone.post("/v1/chat/completions", json=chat()).status_code == 200
        assert open_house.ledger.wait()[0].tenant_id == "tenant-a"


@pytest.mark.parametrize("stream", [False, True])
def test_fields_that_were_left_out_are_told_in_a_header(client, stream):
    asked = chat(max_tokens=1, stream=stream, store=False, service_tier="flex", seed=None, note=None)
    reply = client.post("/v1/chat/completions", json=asked)
    assert (reply.status_code, reply.headers["Serai-Ignored"]) == (200, "store, service_tier")
    plain = client.post("/v1/chat/completions", json=chat(max_tokens=1, stream=stream, temperature=None))
    assert "Serai-Ignored" not in plain.headers


@pytest.mark.parametrize(
    ("path", "field", "nothing"),
    [
        ("/v1/chat/completions", {"functions": [{"name": "f"}]}, {"functions": []}),
        ("/v1/chat/completions", {"function_call": {"name": "f"}}, {"function_call": "none"}),
        ("/v1/chat/completions", {"modalities": ["text", "audio"]}, {"modalities": ["text"]}),
        ("/v1/chat/completions", {"audio": {"voice": "alloy"}}, {"audio": None}),
        ("/v1/chat/completions", {"web_search_options": {}}, {"web_search_options": None}),
        ("/v1/completions", {"suffix": "end"}, {"suffix": ""}),
    ],
)
def test_a_field_that_would_change_the_answer_is_refused(client, path, field, nothing):
    asked = chat(max_tokens=1) if "chat" in path else {"model": "demo", "prompt": "x", "max_tokens": 1}
    reply = client.post(path, json=asked | field)
    error = reply.json()["error"]
    assert (reply.status_code, error["type"], error["param"]) == (400, "invalid_request_error", next(iter(field)))
    harmless = client.post(path, json=asked | nothing)
    assert (harmless.status_code, harmless.headers.get("Serai-Ignored")) == (200, None)


def test_our_own_routes_refuse_a_field_that_they_do_not_know(client, gateway):
    asked = {"prompt": "x", "max_tokens": 1, "no_such_field": 1}
    reply = client.post("/api/models/demo/generate", json=asked)
    assert (reply.status_code, list(reply.json()["error"]["details"])) == (422, ["no_such_field"])
    below_v1 = client.post("/api/v1/models/demo/generate", json=asked)
    assert (below_v1.status_code, below_v1.json()["error"]["details"][0]["field"]) == (400, "no_such_field")
    assert client.post("/v1/completions", json={"model": "demo", **asked}).headers["Serai-Ignored"] == "no_such_field"
