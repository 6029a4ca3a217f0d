"""Requests longer than the context are told in the sentence that clients of OpenAI and vLLM look for."""

import pytest

from gateway.routing.snapshot import ModelEntry
from tests.support.gateway_server import MODEL, EngineProcess, chat, engine_folder, instance, served, snapshot

EMBEDDER = ModelEntry("model-e", "tenant-a", "embedder", mode="Embedding", context=512)
VLLM = (
    "This model's maximum context length is 512 tokens. However, your prompt contains at least 513 input tokens, which "
    "exceeds this limit even without any output tokens. Please reduce the length of the input prompt."
)
LLAMA_CPP = "request (700 tokens) exceeds the available context size (512 tokens), try increasing it"
NO_COUNT = (
    "This model's maximum context length is 512 tokens. However, your prompt contains 9000 characters (more than 8000 "
    "characters, which is the upper bound for 512 input tokens). Please reduce the length of the input prompt."
)
BEGINNING = "This model's maximum context length is 512 tokens. However, you requested "
EMBED = {"model": "embedder", "input": "x"}


def refused(error_text: str, path: str, body: dict) -> dict:
    with engine_folder() as folder:
        faults = {"error_status": 400, "error_text": error_text}
        instances = [
            instance(EngineProcess(folder, **faults).endpoint),
            instance(EngineProcess(folder, runner="pooling", **faults).endpoint, 2, model_id=EMBEDDER.id),
        ]
        with served(snapshot(*instances, models=(MODEL, EMBEDDER))) as gateway, gateway.client() as client:
            reply = client.post(path, json=body)
    assert reply.status_code == 400
    return reply.json()["error"]


@pytest.mark.parametrize(("said", "count"), [(VLLM, "513"), (LLAMA_CPP, "700"), (NO_COUNT, "")])
def test_an_engines_refusal_begins_with_the_sentence_that_clients_match(said, count):
    error = refused(said, "/v1/chat/completions", chat())
    assert (error["code"], error["param"]) == ("context_length_exceeded", "messages")
    assert error["message"].startswith(BEGINNING)
    assert count in error["message"]
    assert "answer" in error["message"]


@pytest.mark.parametrize("said", [VLLM, NO_COUNT])
def test_of_embeddings_no_answer_is_told(said):
    error = refused(said, "/v1/embeddings", EMBED)
    assert (error["code"], error["param"]) == ("context_length_exceeded", "input")
    assert error["message"].startswith(BEGINNING)
    assert "answer" not in error["message"]


def test_anthropics_form_has_the_same_sentence():
    error = refused(VLLM, "/v1/messages", chat(max_tokens=3))
    assert error["type"] == "invalid_request_error"
    assert error["message"].startswith(BEGINNING)


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/v1/chat/completions", chat(), "max_tokens"),
        ("/v1/chat/completions", chat(), "max_completion_tokens"),
        ("/v1/responses", {"model": "demo", "input": "x"}, "max_output_tokens"),
    ],
)
def test_an_answer_longer_than_the_context_is_refused_before_an_engine_is_asked(path, body, field):
    with served(snapshot()) as gateway, gateway.client() as client:
        reply = client.post(path, json={**body, field: 5000})
        chinese = client.post(path, json={**body, field: 5000}, headers={"Accept-Language": "zh"})
        assert gateway.starts == []
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["param"]) == (400, "context_length_exceeded", field)
    assert error["message"].startswith(
        "This model's maximum context length is 4096 tokens. However, you requested 5000"
    )
    assert "4096" in chinese.json()["error"]["message"]
