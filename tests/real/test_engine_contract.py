"""What every engine keeps to behind the whole product, on the same model: real vLLM and real llama.cpp."""

import json
import os
import signal
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import openai
import pytest

from demo import to_gguf
from engines import registry
from engines.base import EngineReadings
from node_agent import probes
from tests.support import weight_files
from tests.support.live_product import LiveProduct, LiveTenant, Person
from tests.support.waiting import eventually

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
PLACE = {
    "type": "object",
    "properties": {"country": {"type": "string"}, "capital": {"type": "string"}},
    "required": ["country", "capital"],
    "additionalProperties": False,
}


@dataclass
class Served:
    """The demo model on one engine, in the first tenant. `long` are tokens that take it seconds to write."""

    product: LiveProduct
    engine: str
    name: str
    long: int
    key: Person

    @property
    def client(self) -> httpx.Client:
        return self.key.client

    @property
    def sdk(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.product.base_url}/v1", api_key=self.key.credential, max_retries=0)

    def with_new_key(self) -> "Served":
        """The same, used by a key of which the ledger knows nothing yet."""
        return replace(self, key=new_key(self.product))

    def question(self, text: str, **fields) -> dict:
        return {"model": self.name, "messages": [{"role": "user", "content": text}], "temperature": 0} | fields

    def post(self, body: dict, timeout: float = 60) -> httpx.Response:
        return self.client.post("/v1/chat/completions", json=body, timeout=timeout)

    def info(self) -> dict:
        headers = {"Serai-Tenant": self.product.record["tenant"]}
        return self.product.operator.get(f"/api/models/{self.name}/info", headers=headers).json()["model"]

    def readings(self) -> EngineReadings:
        """The engine's own page, asked for at its socket."""
        pages = [probes.get_page(path, "/metrics") for path in (self.product.data / "run").glob("*/engine.sock")]
        adapter = registry.get(self.engine)
        found = [adapter.readings(page) for page in pages if page]
        return next(readings for readings in found if readings.prompt_tokens is not None)

    def billed(self, requests: int) -> dict:
        """What the ledger has of this key, once it has so many requests."""

        def found() -> dict | None:
            items = self.client.get("/api/usage", params={"group_by": "key"}).json()["items"]
            mine = next((item for item in items if item["key_id"] == self.key.key_id), {"requests": 0})
            return mine if mine["requests"] == requests else None

        return eventually(found, 60)


def new_key(product: LiveProduct) -> Person:
    return LiveTenant(product, product.record["tenant"]).key()


@pytest.fixture(scope="module", params=["vllm", "llama.cpp"])
def served(request, product) -> Served:
    product.install_engine(request.param)
    made = {"vllm": on_vllm, "llama.cpp": on_llamacpp}[request.param](product)
    reply = made.post(made.question("Hello!"), timeout=240)
    assert reply.status_code == 200, reply.text
    return made


def on_vllm(product: LiveProduct) -> Served:
    return Served(product, "vllm", product.record["model"], 1900, new_key(product))


def on_llamacpp(product: LiveProduct) -> Served:
    """The engine is so fast that only a long context keeps it busy for a while."""
    to_gguf.write(folder_of(product) / "demo.gguf", context=65_536)
    create(product, "demo-gguf", {"model_path": "demo.gguf", "n_parallel": 1, "n_ctx": 65_536})
    return Served(product, "llama.cpp", "demo-gguf", 60_000, new_key(product))


def folder_of(product: LiveProduct) -> Path:
    folder = product.data / "tenants" / product.record["tenant"] / "models"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def create(
    product: LiveProduct, name: str, config: dict, framework: str = "llama.cpp", mode: str = "Chat"
) -> httpx.Response:
    body = {"name": name, "framework": framework, "mode": mode, "config": config}
    return product.operator.post("/api/models", json=body, headers={"Serai-Tenant": product.record["tenant"]})


def test_a_whole_reply_is_right_and_counted(served):
    reply = served.post(served.question("What is the capital of France?")).json()
    usage = reply["usage"]
    assert reply["choices"][0]["message"]["content"] == PARIS
    assert reply["choices"][0]["finish_reason"] == "stop"
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (18, 11, 29)
    assert usage["cache_n"] + usage["prompt_n"] == usage["prompt_tokens"]
    assert reply["model"] == served.name


def test_a_stream_is_the_whole_reply_in_pieces_with_usage_if_asked_for(served):
    asked = served.question("What is the capital of France?", stream=True)
    plain = list(served.sdk.chat.completions.create(**asked))
    counted = list(served.sdk.chat.completions.create(**asked, stream_options={"include_usage": True}))
    for chunks in (plain, counted):
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == PARIS
    assert all(chunk.usage is None and chunk.choices for chunk in plain)
    assert counted[-1].usage.completion_tokens == 11
    assert all(chunk.usage is None for chunk in counted[:-1])


def test_text_is_completed_whole_and_streamed(served):
    asked = {"model": served.name, "prompt": "The capital of France is", "max_tokens": 4, "temperature": 0}
    whole = served.sdk.completions.create(**asked)
    stream = served.sdk.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    chunks = list(stream)
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == whole.choices[0].text
    assert whole.choices[0].finish_reason == "length"
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens == 4


def test_a_stop_word_ends_the_reply_and_is_not_in_it(served):
    choice = served.post(served.question("What is the capital of France?", stop=["France"])).json()["choices"][0]
    assert (choice["message"]["content"].strip(), choice["finish_reason"]) == ("The capital of", "stop")


def test_tools_are_called_and_schemas_are_kept(served):
    called = served.sdk.chat.completions.create(**served.question("What is the weather in Paris?"), tools=[WEATHER])
    call = called.choices[0].message.tool_calls[0]
    assert called.choices[0].finish_reason == "tool_calls"
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": "Paris"})
    bound = {"type": "json_schema", "json_schema": {"name": "place", "schema": PLACE, "strict": True}}
    asked = served.question("Give me Italy as JSON.", max_tokens=60)
    reply = served.sdk.chat.completions.create(**asked, response_format=bound)
    assert json.loads(reply.choices[0].message.content) == {"country": "Italy", "capital": "Rome"}


def test_tokenize_and_detokenize_are_inverse(served):
    counted = served.client.post("/tokenize", json={"model": served.name, "prompt": "Hello"}).json()
    assert counted["count"] == len(counted["tokens"]) == 1
    asked = {"model": served.name, "tokens": counted["tokens"]}
    assert served.client.post("/detokenize", json=asked).json()["prompt"] == "Hello"


def test_a_request_beyond_the_context_is_refused_with_its_limit(served):
    context = "65536" if served.engine == "llama.cpp" else "2048"
    reply = served.post(served.question("word " * 40_000))
    assert reply.status_code == 400, reply.text
    assert context in reply.json()["error"]["message"]


def test_whole_replies_and_streams_are_billed_as_the_engine_counts_them(served):
    counted, asker = quiet(served), served.with_new_key()
    for number in range(6):
        asker.post(asker.question(f"What is {number} plus 2?", stream=bool(number % 2))).raise_for_status()
    billed, after = asker.billed(6), quiet(served)
    assert billed["prompt_tokens"] == after.prompt_tokens - counted.prompt_tokens > 0
    assert billed["completion_tokens"] == after.generation_tokens - counted.generation_tokens > 0


def test_a_stream_that_its_client_leaves_stops_the_engine_and_is_billed_for_what_came(served):
    counted, asker = quiet(served), served.with_new_key()
    asked = asker.question("Hello!", stream=True, max_tokens=served.long, ignore_eos=True)
    with asker.client.stream("POST", "/v1/chat/completions", json=asked) as reply:
        pieces = [line for line, _number in zip(filter(None, reply.iter_lines()), range(10), strict=False)]
    billed, after = asker.billed(1), quiet(served)
    assert len(pieces) == 10
    assert 8 <= billed["completion_tokens"] <= after.generation_tokens - counted.generation_tokens < served.long
    assert billed["prompt_tokens"] == after.prompt_tokens - counted.prompt_tokens


def quiet(served: Served) -> EngineReadings:
    """The engine's readings once it works no more; what it shows of its counters lags a little behind."""
    last = []

    def same() -> EngineReadings | None:
        last.append(served.readings())
        now = last[-1]
        return now if last[-2:-1] == [now] and now.running == now.waiting == 0 else None

    return eventually(same, 60, pause=1)


def test_it_is_seen_as_ready_and_well(served):
    info = served.info()
    assert (info["status"], info["is_available"]) == ("routing", True)


def test_an_option_that_only_the_platform_may_set_is_refused_by_name(served):
    reply = create(served.product, "refused", {"host": "0.0.0.0"}, served.engine)
    assert reply.status_code == 422
    assert "config.host" in reply.json()["error"]["details"]


def test_a_stranger_cannot_reach_it(served, stranger):
    asked = stranger.post("/v1/chat/completions", json=served.question("Hello!"))
    assert (asked.status_code, asked.json()["error"]["code"]) == (404, "model_not_found")


def test_llamacpp_embeds_with_a_model_that_was_made_for_chat(product):
    product.install_engine("llama.cpp")
    to_gguf.write(folder_of(product) / "embedding.gguf")
    create(product, "gguf-embedding", {"model_path": "embedding.gguf", "n_ctx": 512}, mode="Embedding")
    asked = {"model": "gguf-embedding", "input": ["a cat", "a kitten"]}
    reply = product.client(product.record["api_key"]).post("/v1/embeddings", json=asked).json()
    assert [len(entry["embedding"]) for entry in reply["data"]] == [256, 256]
    assert [entry["index"] for entry in reply["data"]] == [0, 1]
    assert reply["usage"]["prompt_tokens"] > 2


def test_llamacpp_serves_a_model_with_its_adapter(product):
    product.install_engine("llama.cpp")
    to_gguf.write(folder_of(product) / "adapted.gguf")
    (folder_of(product) / "adapter.gguf").write_bytes(weight_files.lora_gguf(384, 256, 3.0))
    files = {"model_path": "adapted.gguf", "lora_path": "adapter.gguf"}
    assert create(product, "adapted", files).status_code == 201
    served = Served(product, "llama.cpp", "adapted", 0, new_key(product))
    reply = served.post(served.question("What is the capital of France?", max_tokens=20))
    assert reply.status_code == 200, reply.text
    assert reply.json()["choices"][0]["message"]["content"] != PARIS  # the adapter is there to spoil it


def test_an_architecture_that_the_engine_does_not_know_is_told_as_the_reason(product):
    product.install_engine("llama.cpp")
    whole = to_gguf.write(folder_of(product) / "unknown.gguf").read_bytes()
    renamed = whole.replace(b"llama", b"xlama", 20)
    (folder_of(product) / "unknown.gguf").write_bytes(renamed)
    assert create(product, "unknown", {"model_path": "unknown.gguf"}).status_code == 201
    asked = {"model": "unknown", "messages": [{"role": "user", "content": "hi"}]}
    reply = product.client(product.record["api_key"]).post("/v1/chat/completions", json=asked)
    assert reply.status_code == 503
    info = Served(product, "llama.cpp", "unknown", 0, new_key(product)).info()
    assert "does not support the architecture xlama" in info["failure_reason"]


def test_after_a_crash_it_is_back_by_itself(served):
    """The last test: it costs a start."""
    pid = served.info()["pid"]
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: served.info()["pid"] not in (None, pid), 120)
    reply = eventually(lambda: (found := served.post(served.question("Hello!"))).status_code == 200 and found, 180)
    assert reply.json()["choices"][0]["message"]["content"]
