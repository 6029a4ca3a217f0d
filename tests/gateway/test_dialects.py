"""/v1/responses and /v1/messages: forwarded in their own forms, whole and streamed, checked and metered as all else."""

import json
from dataclasses import replace

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accounts.models import Scope
from core.errors import EngineUnavailable, InvalidRequest
from gateway.api import anthropic_messages, openai_responses, replies
from gateway.api.anthropic_messages import ANTHROPIC_MESSAGE, TOKEN_COUNT
from gateway.api.generation import prepare_request
from gateway.api.named_events import NamedEventRelay
from gateway.api.openai_responses import RESPONSES
from gateway.api.operation import PreparedRequest
from gateway.api.stream_relay import TokenUsage
from gateway.routing.snapshot import ModelEntry
from tests.support.gateway_server import (
    ALICE,
    CONFIG,
    MALLORY,
    MODEL,
    EngineProcess,
    engine_folder,
    instance,
    key,
    served,
    snapshot,
)

PLAIN = ModelEntry("model-p", "tenant-a", "plain")  # its engine has chat completions and none of these routes
RESPONSE, MESSAGE, COUNT = "/v1/responses", "/v1/messages", "/v1/messages/count_tokens"
READER = "sk-serai-reader"
KEYS = [key(READER, "tenant-a", scopes=frozenset({Scope.READ}))]
LIMITED = ModelEntry("model-l", "tenant-a", "limited", context=64, sampling={"max_tokens": 9, "temperature": 0.5})


@pytest.fixture(scope="module")
def gateway():
    with engine_folder() as folder:
        running, lacking = EngineProcess(folder), EngineProcess(folder, runner="pooling")
        world = snapshot(
            instance(running.endpoint), instance(lacking.endpoint, 2, model_id=PLAIN.id), models=(MODEL, PLAIN),
            keys=KEYS,
        )  # fmt: skip
        config = replace(CONFIG, idle_timeout=5, max_body=100_000)  # the first is what the engine that hangs is given
        with served(world, config) as serving:
            yield serving


@pytest.fixture
def client(gateway):
    gateway.ledger.clear()
    with gateway.client() as session:
        yield session


def response(text="one two", **fields) -> dict:
    return {"model": "demo", "input": text, "max_output_tokens": 3, **fields}


def message(text="one two", **fields) -> dict:
    return {"model": "demo", "messages": [{"role": "user", "content": text}], "max_tokens": 3, **fields}


def events(reply) -> list[tuple[str, dict]]:
    found = []
    for event in reply.text.removesuffix("\n\n").split("\n\n"):
        name, data = event.split("\n")
        found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


def error_of(reply) -> dict:
    assert set(reply.json()) == {"error"}
    return reply.json()["error"]


# --- the forms


def test_a_response_comes_in_openais_form_and_is_metered(client, gateway):
    body = client.post(RESPONSE, json=response()).json()
    assert body["output"][0]["content"] == [
        {"type": "output_text", "text": "token0 token1 token2", "annotations": [], "logprobs": []}
    ]
    assert body["usage"] == {
        "input_tokens": 3, "output_tokens": 3, "total_tokens": 6,
        "input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0},
    }  # fmt: skip
    assert {name for name, value in body.items() if value is None} == {
        "error", "incomplete_details", "instructions", "metadata",
    }  # fmt: skip
    assert not {"user", "kv_transfer_params", "input_messages"} & set(body)
    (record,) = gateway.ledger.wait()
    assert (record.route, record.stream, record.status, record.usage) == ("responses", False, "ok", TokenUsage(3, 3))


def test_a_message_comes_in_anthropics_form_and_is_metered_with_what_was_cached(client, gateway):
    body = client.post(MESSAGE, json=message()).json()
    assert (body["type"], body["role"], body["stop_reason"], body["stop_sequence"]) == (
        "message", "assistant", "end_turn", None,
    )  # fmt: skip
    assert body["content"] == [{"type": "text", "text": "token0 token1 token2", "citations": None}]
    assert body["usage"] == {
        "input_tokens": 2, "output_tokens": 3, "cache_read_input_tokens": 1, "cache_creation_input_tokens": 0,
        "cache_creation": None, "server_tool_use": None, "service_tier": None, "inference_geo": None,
        "output_tokens_details": None, "speed": None,
    }  # fmt: skip
    assert {"stop_details", "container", "diagnostics"} <= set(body)
    assert gateway.ledger.wait()[0].usage == TokenUsage(3, 3, cached=1)


def test_tokens_of_messages_are_counted_for_nothing(client, gateway):
    body = message()
    del body["max_tokens"]
    assert client.post(COUNT, json=body).json() == {"input_tokens": 3}
    assert gateway.ledger.wait()[0].usage == TokenUsage()


def test_a_streamed_response_passes_with_its_events_names(client, gateway):
    reply = client.post(RESPONSE, json=response(stream=True))
    found = events(reply)
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert [name for name, _data in found] == [
        "response.created", "response.in_progress", *["response.output_text.delta"] * 3,
        "response.output_text.done", "response.completed",
    ]  # fmt: skip
    assert all(data["type"] == name for name, data in found)
    (record,) = gateway.ledger.wait()
    assert (record.stream, record.status, record.usage) == (True, "ok", TokenUsage(3, 3))
    assert record.ttft_ms is not None


def test_a_streamed_message_passes_with_its_events_names(client, gateway):
    found = events(client.post(MESSAGE, json=message(stream=True)))
    assert [name for name, _data in found] == [
        "message_start", "content_block_start", *["content_block_delta"] * 3, "content_block_stop", "message_delta",
        "message_stop",
    ]  # fmt: skip
    start, end = found[0][1]["message"], found[-2][1]
    assert (start["role"], start["content"], start["stop_reason"]) == ("assistant", [], None)
    assert start["usage"].items() >= {"input_tokens": 2, "cache_creation": None, "service_tier": None}.items()
    assert end["delta"] == {"stop_reason": "end_turn", "stop_sequence": None, "stop_details": None, "container": None}
    assert end["usage"].items() >= {"output_tokens": 3, "cache_creation_input_tokens": 0}.items()
    assert gateway.ledger.wait()[0].usage == TokenUsage(3, 3, cached=1)


def test_the_stock_sdk_makes_and_streams_responses(gateway):
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=ALICE, max_retries=0) as sdk:
        whole = sdk.responses.create(model="demo", input="hi", max_output_tokens=2)
        assert (whole.output_text, whole.usage.output_tokens) == ("token0 token1", 2)
        with sdk.responses.create(model="demo", input="hi", max_output_tokens=2, stream=True) as stream:
            assert "".join(event.delta for event in stream if event.type == "response.output_text.delta") == (
                "token0 token1"
            )
        with (
            pytest.raises(openai.APIError),
            sdk.responses.create(model="demo", input="[[error_at_token=1]]", stream=True) as stream,
        ):
            list(stream)


# --- what goes wrong

MISSING = {RESPONSE: "invalid_request_error", MESSAGE: "not_found_error", COUNT: "not_found_error"}


@pytest.mark.parametrize("stream", [False, True])
def test_a_thinking_budget_is_left_out_since_no_engine_has_a_reasoning_parser(client, stream):
    thinking = {"type": "enabled", "budget_tokens": 1024}
    reply = client.post(MESSAGE, json=message("[[echo]]", max_tokens=2048, thinking=thinking, stream=stream))
    assert reply.status_code == 200
    assert "budget_tokens" not in reply.text
    assert client.post(COUNT, json=message(thinking=thinking)).json() == {"input_tokens": 3}


def test_what_was_left_out_of_a_message_is_known_by_name():
    body = message(max_tokens=2048, thinking={"type": "enabled", "budget_tokens": 1024})
    assert prepare_request(ANTHROPIC_MESSAGE, body, MODEL, "tenant-a", b"key").ignored == ["thinking"]
    body["thinking"] = {"type": "disabled"}
    prepared = prepare_request(ANTHROPIC_MESSAGE, body, MODEL, "tenant-a", b"key")
    assert (prepared.payload["thinking"], prepared.ignored) == ({"type": "disabled"}, [])


@pytest.mark.parametrize(
    ("secret", "fields", "status", "kind"),
    [
        (ALICE, {"max_tokens": 0}, 400, "invalid_request_error"),
        (ALICE, {"model": "nothing"}, 404, "not_found_error"),
        (ALICE, {"system": "x" * 100_000}, 413, "request_too_large"),
        ("sk-serai-wrong", {}, 401, "authentication_error"),
        (READER, {}, 403, "permission_error"),
        (MALLORY, {}, 404, "not_found_error"),
        (ALICE, {"messages": [{"role": "user", "content": "[[error_status=503]]"}]}, 503, "overloaded_error"),
    ],
)
def test_errors_have_anthropics_form_and_types(gateway, secret, fields, status, kind):
    with gateway.client(secret) as caller:
        reply = caller.post(MESSAGE, json=message(**fields))
    error = reply.json()
    assert (reply.status_code, error["type"], error["error"]["type"]) == (status, "error", kind)
    assert set(error) == {"type", "error", "request_id"}
    assert set(error["error"]) == {"type", "message"}
    assert error["request_id"] == reply.headers["request-id"] == reply.headers["x-request-id"]


def test_so_have_those_of_the_count_and_of_methods_that_are_not_there(client):
    for reply in (client.post(COUNT, json=message(system=5)), client.get(MESSAGE), client.delete(COUNT)):
        assert (reply.json()["type"], reply.json()["error"]["type"]) == ("error", "invalid_request_error")
        assert reply.json()["request_id"] == reply.headers["request-id"]


def test_what_the_client_did_wrong_is_no_failure_of_the_engine_even_where_the_engine_hides_it():
    hidden = (
        "2 validation errors for ChatCompletionStreamResponse\nmodel\n  Field required [type=missing, input_value="
        "{'error': {'message': 'th...am': None, 'code': 400}}, input_type=dict]"
    )
    with engine_folder() as folder:
        engine = EngineProcess(folder, error_at_token=0, error_text=hidden)
        with served(snapshot(instance(engine.endpoint))) as serving, serving.client() as client:
            name, data = events(client.post(MESSAGE, json=message(stream=True)))[-1]
    assert (name, data["type"], data["error"]["type"]) == ("error", "error", "invalid_request_error")
    assert "ChatCompletion" not in data["error"]["message"]


@pytest.mark.parametrize(("route", "body"), [(RESPONSE, response), (MESSAGE, message)])
@pytest.mark.parametrize("fault", ["[[truncate=2]]", "[[error_at_token=2]]", "[[hang_at_token=2]]"])
def test_a_stream_that_breaks_off_ends_with_an_error_event_and_is_metered_as_far_as_it_came(
    client, gateway, route, body, fault
):
    reply = client.post(route, json=body(fault, stream=True))
    name, data = events(reply)[-1]
    assert (reply.status_code, name, data["type"]) == (200, "error", "error")
    if route == MESSAGE:
        assert data["error"]["type"] in ("overloaded_error", "timeout_error")
        assert data["request_id"] == reply.headers["request-id"]
    else:
        assert data["error"]["code"] in ("engine_unavailable", "timeout")
    assert "secret" not in reply.text
    (record,) = gateway.ledger.wait()
    assert record.status in ("upstream_error", "timeout")
    assert record.usage.completion == 2
    if route == MESSAGE:
        assert record.usage.prompt == 2


def test_an_end_that_cannot_be_read_is_the_engines_failure(client, gateway):
    name, data = events(client.post(RESPONSE, json=response("[[garbage]]", stream=True)))[-1]
    assert (name, data["error"]["code"]) == ("error", "engine_unavailable")
    assert gateway.ledger.wait()[0].status == "upstream_error"


@pytest.mark.parametrize(("route", "body"), [(RESPONSE, response()), (MESSAGE, message()), (COUNT, message())])
def test_an_engine_without_the_route_means_that_it_is_not_there(client, gateway, route, body):
    reply = client.post(route, json={**body, "model": "plain"})
    error = reply.json()["error"]
    assert (reply.status_code, error["type"]) == (404, MISSING[route])
    assert route in error["message"]
    assert gateway.ledger.wait()[0].status == "rejected"


@pytest.mark.parametrize(("route", "body"), [(RESPONSE, response()), (MESSAGE, message()), (COUNT, message())])
def test_a_stranger_meets_no_such_model(gateway, route, body):
    with gateway.client(MALLORY) as mallory:
        reply = mallory.post(route, json=body)
    error = reply.json()["error"]
    assert (reply.status_code, error["type"]) == (404, MISSING[route])
    assert "'demo' does not exist" in error["message"]


@pytest.mark.parametrize(
    "path",
    ["/v1/systemone", "/v1/chat/completions/render", "/v1/responses/resp_1/cancel", "/v1/unload_lora_adapter",
     "/v1/embeddings/x"],
)  # fmt: skip
def test_other_routes_of_an_engine_are_not_there(client, gateway, path):
    reply = client.post(path, json=message())
    assert (reply.status_code, error_of(reply)["type"]) == (404, "invalid_request_error")
    assert gateway.ledger == []


def test_other_routes_of_anthropics_api_are_not_there_in_its_own_form(client):
    for path in ("/v1/messages/batches", "/v1/messages/"):
        reply = client.post(path, json=message())
        assert (reply.status_code, reply.json()["error"]["type"]) == (404, "not_found_error")


# --- what is forwarded


def ready(operation, body: dict, model=MODEL) -> dict:
    return prepare_request(operation, body, model, "tenant-a", b"key").payload


def refused(operation, body: dict, model=MODEL) -> str:
    with pytest.raises(InvalidRequest) as caught:
        ready(operation, body, model)
    return caught.value.param


DANGEROUS = {
    "user": "them", "cache_salt": "theirs", "priority": -1, "kv_transfer_params": {"x": 1}, "request_id": "r",
    "chat_template": "{{ 1 }}", "mm_processor_kwargs": {}, "vllm_xargs": {}, "store": True, "prompt": {"id": "p"},
    "enable_response_messages": True, "service_tier": "priority",
}  # fmt: skip


def test_fields_that_are_unknown_dangerous_or_ours_never_reach_the_engine():
    asked = ready(RESPONSES, {"input": "x"} | DANGEROUS)
    assert set(asked) == {"input", "store", "cache_salt"}
    assert asked["store"] is False
    assert asked["cache_salt"] != "theirs"
    assert set(ready(ANTHROPIC_MESSAGE, message() | DANGEROUS)) == {"messages", "max_tokens", "cache_salt"}
    assert set(ready(TOKEN_COUNT, message() | DANGEROUS)) == {"messages"}


def test_the_models_own_defaults_and_limits_hold():
    assert ready(RESPONSES, {"input": "x"}, LIMITED)["max_output_tokens"] == 9
    assert ready(RESPONSES, {"input": "x"}, LIMITED)["temperature"] == 0.5
    assert ready(RESPONSES, response(), LIMITED)["max_output_tokens"] == 3
    assert refused(RESPONSES, response(max_output_tokens=65), LIMITED) == "max_output_tokens"
    assert ready(ANTHROPIC_MESSAGE, message(), LIMITED)["max_tokens"] == 3
    assert refused(ANTHROPIC_MESSAGE, message(max_tokens=65), LIMITED) == "max_tokens"


def test_a_conversation_with_tools_passes_in_either_form():
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "hi"}]},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "7"},
        {"type": "message", "role": "assistant", "id": "m", "status": "completed",
         "content": [{"type": "output_text", "text": "7", "annotations": [{"x": 1}]}]},
    ]  # fmt: skip
    tool = {"type": "function", "name": "f", "parameters": schema}
    kept = ready(RESPONSES, {"input": items, "tools": [tool], "tool_choice": {"type": "function", "name": "f"}})
    assert kept["tools"] == [tool]
    assert kept["input"][0]["content"] == items[0]["content"]
    assert kept["input"][4]["content"] == [{"type": "output_text", "text": "7", "annotations": []}]
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}}
    talk = [
        {"role": "user", "content": [{"type": "text", "text": "hi", "cache_control": {}}, image]},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "f", "input": {"city": "Rome"}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "7"}]},
    ]
    asked = {"messages": talk, "max_tokens": 1, "tools": [{"name": "f", "input_schema": schema}], "system": "s"}
    kept = ready(ANTHROPIC_MESSAGE, asked | {"tool_choice": {"type": "tool", "name": "f"}})
    assert kept["messages"][0]["content"] == [{"type": "text", "text": "hi"}, image]
    assert kept["messages"][1:] == talk[1:]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": None}, "input"), ({"input": []}, "input"), ({"input": 5}, "input"),
        ({"input": [{"type": "web_search_call"}]}, "input[0].type"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "http://10.0.0.1/"}]}]},
         "input[0].content[0].image_url"),
        ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, "input[0].content[0].type"),
        ({"background": True}, "background"), ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "c"}, "conversation"), ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"), ({"tool_choice": "required"}, "tool_choice"),
        ({"text": {"format": {"type": "json_schema", "name": "s"}}}, "text.format.schema"),
        ({"stream": "yes"}, "stream"), ({"temperature": 3}, "temperature"), ({"metadata": {"a": 1}}, "metadata.a"),
        ({"metadata": {str(number): "" for number in range(17)}}, "metadata"),
    ],
)  # fmt: skip
def test_what_a_response_cannot_be_made_of_is_refused_by_the_name_of_the_field(fields, param):
    assert refused(RESPONSES, {"input": "x"} | fields) == param


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": None}, "messages"), ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"max_tokens": None}, "max_tokens"), ({"max_tokens": 0}, "max_tokens"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "http://x"}}]}]},
         "messages[0].content[0].source.type"),
        ({"messages": [{"role": "user", "content": [{"type": "tool_result"}]}]}, "messages[0].content[0].tool_use_id"),
        ({"system": 5}, "system"), ({"tools": [{"name": "f"}]}, "tools[0].input_schema"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"), ({"stop_sequences": [""]}, "stop_sequences[0]"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "thinking.budget_tokens"),
    ],
)  # fmt: skip
def test_what_a_message_cannot_be_answered_with_is_refused_by_the_name_of_the_field(fields, param):
    assert refused(ANTHROPIC_MESSAGE, message() | fields) == param


# --- the relay


def event(name: str, **data) -> bytes:
    return f"event: {name}\ndata: {json.dumps({'type': name, **data})}\n\n".encode()


STREAM = (
    event("message_start", message={"usage": {"input_tokens": 7, "cache_read_input_tokens": 2, "output_tokens": 0}})
    + b": ping\n\n"
    + b"".join(event("content_block_delta", delta={"text": text}) for text in ("a", "event: x", "message_stop"))
    + event("message_delta", usage={"input_tokens": 7, "cache_read_input_tokens": 2, "output_tokens": 5})
    + event("message_stop")
)


@given(st.lists(st.integers(0, len(STREAM)), max_size=8))
def test_the_stream_is_the_same_whatever_the_network_does_to_it(cuts):
    edges = [0, *sorted(cuts), len(STREAM)]
    relay = NamedEventRelay(replace(anthropic_messages.EVENT_KINDS, convert=None))
    out = b"".join(relay.feed(STREAM[start:end]) for start, end in zip(edges, edges[1:], strict=False))
    assert out == STREAM.replace(b": ping\n\n", b"")
    assert (relay.done, relay.failure, relay.usage()) == (True, None, TokenUsage(9, 5, 2))


@pytest.mark.parametrize(
    "bad",
    [b"<html>\n\n", b"data: {}\n\n", b'data: {"error": {"code": 500}}\n\n', event("error"),
     b"event: message_delta\ndata: {}\n\n", b"event: message_delta\ndata: [\n\n"],
)  # fmt: skip
def test_what_is_no_such_stream_is_a_failure_after_which_nothing_comes(bad):
    relay = NamedEventRelay(anthropic_messages.EVENT_KINDS)
    assert relay.feed(bad + STREAM) == b""
    assert relay.failure
    assert not relay.done


def test_a_failed_response_is_told_in_our_words():
    relay = NamedEventRelay(openai_responses.EVENT_KINDS)
    assert relay.feed(event("response.failed", response={"error": {"message": "/secret"}})) == b""
    assert relay.failure


@pytest.mark.parametrize(
    ("operation", "raw"),
    [(RESPONSES, {"output": 5, "usage": {}}), (RESPONSES, {"output": []}), (RESPONSES, {"output": [], "usage": None}),
     (ANTHROPIC_MESSAGE, {"content": []}), (ANTHROPIC_MESSAGE, {"content": "x", "usage": {}}),
     (ANTHROPIC_MESSAGE, {"content": [], "usage": {"input_tokens": "7"}})],
)  # fmt: skip
def test_a_reply_that_is_none_is_the_engines_failure(operation, raw):
    with pytest.raises(EngineUnavailable):
        replies.convert_reply(operation, json.dumps(raw).encode(), PreparedRequest({}))
