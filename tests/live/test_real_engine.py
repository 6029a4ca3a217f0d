"""The real vLLM behind the whole product: the stock OpenAI SDK, the service document's examples, and the ledger."""

import concurrent.futures
import json
import threading
from contextlib import suppress

import httpx
import openai
import psutil
import pytest

from inference.engines import install
from tests import adapters
from tests.live import trained
from tests.live.product import eventually

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
    install.install("vllm", report=print)
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
    assert (whole["content"], whole["stop_reason"]) == ([{"type": "text", "text": PARIS}], "end_turn")
    used = whole["usage"]
    prompt = used["input_tokens"] + used.get("cache_read_input_tokens", 0)
    assert demo.post("/v1/messages/count_tokens", json=talk).json()["input_tokens"] == prompt
    with demo.stream("POST", "/v1/messages", json={**asked, "stream": True}) as reply:
        events = [json.loads(line[6:]) for line in reply.iter_lines() if line.startswith("data: ")]
    text = "".join(event["delta"]["text"] for event in events if event["type"] == "content_block_delta")
    assert (text, events[0]["type"], events[-1]["type"]) == (PARIS, "message_start", "message_stop")


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


# --- adapters

DEMO_LAYERS = {"layers": 4, "inputs": 384, "outputs": 256}
FULL = 4  # adapters in one batch, by default


def answer(person, model):
    """Which version answered (of the base its name), and what it said."""
    reply = person.post(
        "/v1/chat/completions", json=question("What is the capital of France?", model=model, max_tokens=20)
    )
    assert reply.status_code == 200, reply.text
    return reply.json()["model"], reply.json()["choices"][0]["message"]["content"]


@pytest.fixture(scope="module")
def noisy(product, demo):
    """Name → version: as many adapters as fit in a batch, each of which lets the demo model babble in its own way."""
    versions = {}
    for number in range(1, FULL + 1):
        name = f"noise-{number}"
        versions[name] = trained.keep(product, product.record["tenant"], MODEL, name, noise=number, **DEMO_LAYERS)
        demo.post(f"/api/adapters/{name}/publish").raise_for_status()
    return versions


def test_adapters_answer_in_their_own_way_and_the_base_as_before_though_all_are_in_one_batch(demo, noisy):
    alone = {answer(demo, name) for name in noisy}
    assert {version for version, _said in alone} == set(noisy.values())
    assert PARIS not in {said for _version, said in alone}
    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        together = list(pool.map(lambda model: answer(demo, model), [MODEL, *noisy] * 6))
    assert {said for version, said in together if version == MODEL} == {PARIS}
    assert PARIS not in {said for version, said in together if version != MODEL}


def test_a_version_is_published_and_rolled_back_while_clients_chat_with_the_base(product, demo, noisy):
    name = "noise-1"
    said, done = [], threading.Event()

    def chat():
        while not done.is_set():
            said.append(answer(demo, MODEL))

    newer = trained.keep(product, product.record["tenant"], MODEL, name, noise=99, **DEMO_LAYERS)
    clients = [threading.Thread(target=chat) for _ in range(4)]
    for client in clients:
        client.start()
    demo.post(f"/api/adapters/{name}/publish").raise_for_status()
    eventually(lambda: answer(demo, name)[0] == newer, 60)
    demo.post(f"/api/adapters/{name}/rollback", json={"version": 1}).raise_for_status()
    eventually(lambda: answer(demo, name)[0] == noisy[name], 60)
    done.set()
    for client in clients:
        client.join()
    assert set(said) == {(MODEL, PARIS)}


def test_an_adapter_for_another_model_is_refused_and_the_base_goes_on(product, demo):
    trained.keep(product, product.record["tenant"], MODEL, "alien", make=alien)
    demo.post("/api/adapters/alien/publish").raise_for_status()
    refused = demo.post("/v1/chat/completions", json=question("Hello!", model="alien"))
    assert refused.status_code == 503
    assert "expected target modules" in refused.text
    assert answer(demo, MODEL) == (MODEL, PARIS)


def alien(path):
    folder = adapters.folder(path)
    shapes = {f"base_model.model.model.layers.0.mixer.lora_{side}.weight": [4, 4] for side in "AB"}
    (folder / "adapter_model.safetensors").write_bytes(adapters.tensors(shapes))
    return folder


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
