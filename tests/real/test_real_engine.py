"""The real vLLM behind the whole product: the stock OpenAI SDK, the service document's examples, and the ledger."""

import concurrent.futures
import json
import threading
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime

import httpx
import openai
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families
from websockets.sync.client import connect

from tests.support.waiting import eventually

MODEL = "serai-demo"
PARIS = "The capital of France is Paris."
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        "strict": True,
    },
}


@pytest.fixture(scope="module")
def demo(product):
    """A key of the first tenant, whose demo model runs on vLLM once the first request was answered."""
    product.install_engine("vllm")
    person = product.client(product.record["api_key"])
    reply = person.post("/v1/chat/completions", json=question("What is the capital of France?"), timeout=240)
    assert reply.status_code == 200, reply.text
    return person


@pytest.fixture(scope="module")
def sdk(product, demo):
    return openai.OpenAI(base_url=f"{product.base_url}/v1", api_key=product.record["api_key"], max_retries=0)


def question(text, **fields):
    return {"model": MODEL, "messages": [{"role": "user", "content": text}], "temperature": 0} | fields


def test_the_first_request_to_the_stopped_model_is_answered(demo):
    reply = demo.post("/v1/chat/completions", json=question("What is the capital of France?")).json()
    assert reply["choices"][0]["message"]["content"] == PARIS
    assert reply["usage"]["total_tokens"] == reply["usage"]["prompt_tokens"] + reply["usage"]["completion_tokens"]
    assert reply["usage"]["cache_n"] + reply["usage"]["prompt_n"] == reply["usage"]["prompt_tokens"]


def test_the_sdk_lists_the_model(sdk):
    assert MODEL in [model.id for model in sdk.models.list()]
    assert sdk.models.retrieve(MODEL).object == "model"


def test_the_sdk_chats_and_streams_with_usage(sdk):
    messages = [{"role": "user", "content": [{"type": "text", "text": "What is 3 plus 4?"}]}]
    whole = sdk.chat.completions.create(model=MODEL, messages=messages, temperature=0)
    stream = sdk.chat.completions.create(
        model=MODEL, messages=messages, temperature=0, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content == "3 plus 4 is 7."
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_a_stream_holds_no_usage_that_nobody_asked_for(sdk):
    stream = sdk.chat.completions.create(**question("Hello!"), stream=True)
    assert all(chunk.usage is None and chunk.choices for chunk in stream)


def test_the_sdk_calls_tools(sdk):
    asked = question("What is the weather in Paris?")
    reply = sdk.chat.completions.create(**asked, tools=[WEATHER])
    call = reply.choices[0].message.tool_calls[0]
    assert reply.choices[0].finish_reason == "tool_calls"
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": "Paris"})


def test_the_sdk_gets_json_that_fits_a_schema(sdk):
    schema = {
        "type": "object",
        "properties": {"country": {"type": "string"}, "capital": {"type": "string"}},
        "required": ["country", "capital"],
        "additionalProperties": False,
    }
    reply = sdk.chat.completions.create(
        **question("Give me Italy as JSON."),
        max_tokens=60,
        response_format={"type": "json_schema", "json_schema": {"name": "place", "schema": schema, "strict": True}},
    )
    assert json.loads(reply.choices[0].message.content) == {"country": "Italy", "capital": "Rome"}


def test_logprobs_seed_and_several_choices_pass_intact(sdk):
    reply = sdk.chat.completions.create(
        **question("Hello!") | {"temperature": 1.0}, n=2, seed=7, logprobs=True, top_logprobs=2, max_tokens=5
    )
    assert [choice.index for choice in reply.choices] == [0, 1]
    assert len(reply.choices[0].logprobs.content[0].top_logprobs) == 2


def test_the_sdk_completes_text(sdk):
    reply = sdk.completions.create(model=MODEL, prompt="The capital of France is", max_tokens=4, temperature=0)
    assert reply.object == "text_completion"
    assert reply.choices[0].text


def test_tokenize_and_detokenize_are_inverse(demo):
    tokens = demo.post("/tokenize", json={"model": MODEL, "prompt": "Hello"}).json()["tokens"]
    assert demo.post("/detokenize", json={"model": MODEL, "tokens": tokens}).json()["prompt"] == "Hello"


def test_the_sdk_makes_and_streams_responses(sdk):
    asked = {"model": MODEL, "input": "What is the capital of France?", "temperature": 0}
    whole = sdk.responses.create(**asked)
    assert (whole.output_text, whole.status) == (PARIS, "completed")
    assert whole.usage.total_tokens == whole.usage.input_tokens + whole.usage.output_tokens
    events = list(sdk.responses.create(**asked, stream=True))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == PARIS
    assert events[-1].type == "response.completed"
    assert events[-1].response.usage.output_tokens == whole.usage.output_tokens


def test_messages_are_answered_streamed_and_counted_in_anthropics_form(demo):
    talk = {"model": MODEL, "messages": [{"role": "user", "content": "What is the capital of France?"}]}
    asked = {**talk, "max_tokens": 50, "temperature": 0}
    whole = demo.post("/v1/messages", json=asked).json()
    said = [{"type": "text", "text": PARIS, "citations": None}]
    assert (whole["content"], whole["stop_reason"]) == (said, "end_turn")
    used = whole["usage"]
    prompt = used["input_tokens"] + used.get("cache_read_input_tokens", 0)
    assert demo.post("/v1/messages/count_tokens", json=talk).json()["input_tokens"] == prompt
    with demo.stream("POST", "/v1/messages", json={**asked, "stream": True}) as reply:
        events = [json.loads(line[6:]) for line in reply.iter_lines() if line.startswith("data: ")]
    text = "".join(event["delta"]["text"] for event in events if event["type"] == "content_block_delta")
    assert (text, events[0]["type"], events[-1]["type"]) == (PARIS, "message_start", "message_stop")


@pytest.mark.parametrize("stream", [False, True])
def test_a_thinking_budget_fails_no_message(demo, stream):
    thinking = {"type": "enabled", "budget_tokens": 1024}
    talk = {"model": MODEL, "messages": [{"role": "user", "content": "What is the capital of France?"}]}
    reply = demo.post(
        "/v1/messages", json={**talk, "max_tokens": 1100, "temperature": 0, "thinking": thinking, "stream": stream}
    )
    assert reply.status_code == 200
    assert "event: error" not in reply.text


def test_errors_of_the_sdk_are_typed(product, sdk):
    with pytest.raises(openai.NotFoundError) as missing:
        sdk.chat.completions.create(model="no-such-model", messages=[{"role": "user", "content": "hi"}])
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as wrong:
        sdk.chat.completions.create(**question("hi") | {"temperature": 9})
    assert wrong.value.param == "temperature"
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{product.base_url}/v1", api_key="sk-serai-wrong").models.list()


def test_a_prompt_beyond_the_context_is_refused_with_its_limit(demo):
    reply = demo.post("/v1/chat/completions", json=question("word " * 5000))
    assert reply.status_code == 400
    assert reply.json()["error"]["type"] == "invalid_request_error"
    assert "2048" in reply.json()["error"]["message"]


def test_the_service_documents_generate_example(demo):
    body = {
        "prompt": "Hello, how are you?", "max_tokens": 100, "temperature": 0.7, "top_p": 0.9, "top_k": 40,
        "stop": ["\n", "Human:"], "stream": False,
    }  # fmt: skip
    reply = demo.post(f"/api/models/{MODEL}/generate", json=body).json()
    assert reply["id"].startswith("gen-")
    assert reply["model"] == MODEL
    assert set(reply["choices"][0]) >= {"text", "finish_reason", "index"}
    assert set(reply["usage"]) >= {"prompt_tokens", "completion_tokens", "total_tokens"}
    assert isinstance(reply["created"], int)


def test_the_service_documents_streamed_generate_example(demo):
    body = {"prompt": "Tell me a story", "max_tokens": 20, "stream": True}
    with demo.stream("POST", f"/api/models/{MODEL}/generate", json=body) as reply:
        lines = [line.removeprefix("data: ") for line in reply.iter_lines() if line]
    assert lines[-1] == "[DONE]"
    assert all({"text", "index"} <= set(json.loads(line)["choices"][0]) for line in lines[:-1])


def test_the_service_documents_chat_example(demo):
    messages = [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "Hello!"},
    ]
    body = {"messages": messages, "max_tokens": 100, "temperature": 0.7, "stream": False}
    reply = demo.post(f"/api/models/{MODEL}/chat/completions", json=body).json()
    assert reply["choices"][0]["message"]["role"] == "assistant"
    assert reply["choices"][0]["message"]["content"]


def test_a_stranger_cannot_reach_the_model(stranger, demo):
    asked = stranger.post("/v1/chat/completions", json=question("Hello!"))
    assert asked.status_code == 404
    assert asked.json()["error"]["code"] == "model_not_found"


def ledger(demo):
    items = demo.get("/api/usage", params={"group_by": "model"}).json()["items"]
    return next((item for item in items if item["model_name"] == MODEL and item["engine"]), None)


def settled(demo, requests):
    """The ledger once it holds so many requests and the engine's counters have been read after the last of them."""
    before = {}

    def quiet():
        now = ledger(demo)
        same = now and now == before.get("last") and now["requests"] >= requests
        before["last"] = now
        return now if same else None

    return eventually(quiet, 60, pause=6)


def cut_after(demo, events):
    """A stream of 300 tokens that its client leaves after some events."""
    body = question("Hello!", stream=True, max_tokens=300, ignore_eos=True)
    with demo.stream("POST", "/v1/chat/completions", json=body) as reply:
        for _line, _number in zip(reply.iter_lines(), range(2 * events), strict=False):
            pass


def test_the_ledger_agrees_with_the_engines_own_counters(demo):
    start = settled(demo, 0)

    def one(number):
        if number % 10 == 7:
            return other_forms(demo, number)
        if number % 5 == 4:
            return cut_after(demo, 3 + number)
        body = question(f"What is {number} plus 2?", stream=number % 2 == 0, max_tokens=20)
        return demo.post("/v1/chat/completions", json=body).raise_for_status()

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(one, range(40)))
    end = settled(demo, start["requests"] + 40)

    made, billed = growth(start, end)
    undelivered = end["difference"]["completion_tokens"] - start["difference"]["completion_tokens"]
    assert end["requests"] - start["requests"] == 40
    assert made["prompt_tokens"] == billed["prompt_tokens"]
    assert made["completion_tokens"] == billed["completion_tokens"] + undelivered
    assert 0 <= undelivered <= 8 * 30  # what the engine made between the last byte and the abort, of 8 cut streams


def other_forms(demo, number):
    """The same question to the two routes of other forms, of which one counts here as the request."""
    body = {"model": MODEL, "max_tokens": 20, "messages": [{"role": "user", "content": f"What is {number} plus 2?"}]}
    if number > 20:
        body = {"model": MODEL, "max_output_tokens": 20, "input": f"What is {number} plus 2?"}
    route = "/v1/responses" if number > 20 else "/v1/messages"
    return demo.post(route, json={**body, "stream": number % 20 > 10}).raise_for_status()


def growth(start, end):
    """Tokens by the engine's counters and by the ledger, from one reading to the next."""
    names = ("prompt_tokens", "completion_tokens")
    made = {name: end["engine"][name] - start["engine"][name] for name in names}
    return made, {name: end[name] - start[name] for name in names}


def test_whole_replies_agree_to_the_token(demo):
    start = settled(demo, 0)
    for number in range(10):
        demo.post("/v1/chat/completions", json=question(f"{number} + 1 = ?", stream=bool(number % 2)))
    end = settled(demo, start["requests"] + 10)
    made, billed = growth(start, end)
    assert made == billed


@pytest.fixture
def sampled_every_second(operator):
    before = operator.get("/api/config").json()["gpu_monitor_interval"]
    operator.put("/api/config", json={"gpu_monitor_interval": 1}).raise_for_status()
    yield
    operator.put("/api/config", json={"gpu_monitor_interval": before}).raise_for_status()


def figures(operator, **labels):
    """Of the demo model, as Prometheus reads them: name → sum over the series with these labels."""
    found = Counter()
    for family in text_string_to_metric_families(operator.get("/metrics").text):
        for sample in family.samples:
            if labels.items() <= sample.labels.items():
                found[sample.name] += sample.value
    return found


def ask_until(enough, demo):
    """One client's usages, until it is told that this is enough."""
    usages, body = [], question("Hello!", max_tokens=200, ignore_eos=True)
    while not enough.is_set():
        usages.append(demo.post("/v1/chat/completions", json=body).raise_for_status().json()["usage"])
    return usages


def performance(demo):
    (model,) = demo.get("/api/monitoring/performance", params={"model_id": MODEL, "time_range": "1h"}).json()["models"]
    return model


def rolled_up(demo):
    """How many requests the figures know, once that stays the same for longer than they take to be rolled up."""
    seen = []

    def same():
        seen.append(performance(demo)["total_requests"])
        return seen[-1:] == seen[-2:-1]

    eventually(same, 90, pause=12)
    return seen[-1]


def test_load_on_the_model_moves_every_figure(product, operator, demo, sampled_every_second):
    model_id = demo.get(f"/api/models/{MODEL}").json()["id"]
    settled(demo, 0)
    before, began = rolled_up(demo), datetime.now(UTC)
    counted, enough = figures(operator, model=model_id), threading.Event()
    address = product.base_url.replace("http", "ws", 1) + "/ws/monitor"
    headers = {"Authorization": f"Bearer {operator.credential}"}

    def at_work():
        now = figures(operator, model=model_id)
        return now["serai_requests_in_flight"] > 0 and now["serai_engine_running"] > 0

    with connect(address, additional_headers=headers) as ws, concurrent.futures.ThreadPoolExecutor(6) as pool:
        ws.send(json.dumps({"action": "subscribe", "events": ["gpu_metrics"]}))
        crowd = [pool.submit(ask_until, enough, demo) for _client in range(6)]
        try:
            eventually(at_work, 90)
            told = Counter(json.loads(ws.recv(timeout=60)).get("type") for _event in range(4))
        finally:
            enough.set()
        usages = [usage for client in crowd for usage in client.result()]
    asked, tokens = len(usages), sum(usage["completion_tokens"] for usage in usages)
    assert told["host_metrics_update"] >= 2

    eventually(lambda: performance(demo)["total_requests"] == before + asked, 90)
    measured = performance(demo)
    assert 0 < measured["avg_response_time"] <= measured["max_response_time"]
    status = operator.get("/api/system/status").json()
    assert status["models"]["running"] >= 1 and status["resources"]["cpu_percent"] > 0

    query = {"start_time": began.isoformat(), "metric_type": "model", "interval": "1m"}
    points = operator.get("/api/monitoring/metrics", params=query).json()["metrics"]
    assert sum(point["completion_tokens"] or 0 for point in points) >= tokens
    assert any(point["engine_running"] for point in points)

    def risen():
        now = figures(operator, model=model_id)
        names = ("serai_requests_total", "serai_completion_tokens_total", "serai_engine_generation_tokens_total",
                 "serai_engine_ttft_count", "serai_response_time_count")  # fmt: skip
        rise = {name: now[name] - counted[name] for name in names}
        engine_told = rise["serai_engine_ttft_count"] >= asked
        return rise if engine_told and rise["serai_engine_generation_tokens_total"] >= tokens else None

    rise = eventually(risen, 90)
    assert rise["serai_requests_total"] == rise["serai_response_time_count"] == asked
    assert rise["serai_completion_tokens_total"] == tokens
    eventually(lambda: figures(operator, model=model_id)["serai_requests_in_flight"] == 0, 60)


def test_the_engine_is_reached_by_no_port(product, demo):
    """It listens on a socket in a folder of its owner's only."""
    sockets = [path for path in (product.data / "run").glob("*/engine.sock") if path.is_socket()]
    assert any(is_well(socket) for socket in sockets)
    assert all(socket.parent.stat().st_mode & 0o077 == 0 for socket in sockets)


def test_vllm_is_imported_once(product, demo):
    """Its engine process is a fork of its server; spawning would show as one more, Python's tracker of resources."""
    shown = product.operator.get(f"/api/models/{MODEL}/info", headers={"Serai-Tenant": product.record["tenant"]})
    server = psutil.Process(shown.json()["model"]["pid"])
    assert len(server.children(recursive=True)) == 1


def is_well(socket):
    """Whether an engine answers there; the sockets of ended ones stay behind."""
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(socket))) as client, suppress(httpx.ConnectError):
        return client.get("http://engine/health").status_code == 200
