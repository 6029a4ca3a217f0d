"""Embeddings and ranking by the real vLLM: the first tenant's minilm, whose files its first request brings, and a
tiny cross-encoder."""

import math
import shutil

import openai
import pytest

from tests.support.reranker import FOLDER
from tests.support.waiting import eventually

MODEL = "minilm"


@pytest.fixture(scope="module")
def minilm(product):
    """A key of the first tenant, once its embedding model has answered."""
    product.install_engine("vllm")
    person = product.client(product.record["api_key"])
    reply = person.post("/v1/embeddings", json={"model": MODEL, "input": "Hello"}, timeout=240)
    assert reply.status_code == 200, reply.text
    return person


def cosine(one, two):
    return sum(a * b for a, b in zip(one, two, strict=True))


def test_the_first_tenant_has_the_model_and_its_files_were_brought(product, minilm):
    assert MODEL in [model["id"] for model in minilm.get("/v1/models").json()["data"]]
    assert minilm.get(f"/api/models/{MODEL}").json()["status"] == "running"


def test_the_stock_sdk_gets_vectors_that_are_near_for_near_meanings(product, minilm):
    sdk = openai.OpenAI(base_url=f"{product.base_url}/v1", api_key=product.record["api_key"], max_retries=0)
    texts = ["a cat", "a kitten", "the stock market fell"]
    cat, kitten, market = (entry.embedding for entry in sdk.embeddings.create(model=MODEL, input=texts).data)
    assert len(cat) == 384
    assert math.hypot(*cat) == pytest.approx(1.0, abs=1e-3)
    assert cosine(cat, kitten) > 0.5 > 0.2 > cosine(cat, market)
    floats = sdk.embeddings.create(model=MODEL, input="a cat", encoding_format="float").data[0].embedding
    assert floats == pytest.approx(cat, abs=1e-4)


def test_it_ranks_and_scores_by_cosine(minilm):
    documents = ["Cats sleep all day.", "Click here to reset your password.", "The market fell."]
    body = {"model": MODEL, "query": "I forgot my password", "documents": documents}
    ranking = minilm.post("/v1/rerank", json=body).json()
    best = ranking["results"][0]
    assert (ranking["object"], best["index"], best["document"]) == ("rerank", 1, documents[1])
    assert len(ranking["results"]) == 3
    scores = minilm.post("/v1/score", json={"model": MODEL, "text_1": body["query"], "text_2": documents}).json()
    assert scores["data"][1]["score"] == pytest.approx(best["relevance_score"], abs=1e-4)


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"input": "word " * 600}, "input", "context_length_exceeded"),
        ({"input": "x", "dimensions": 8}, "dimensions", None),
        ({"input": [1, 2, 999_999]}, "input", None),
        ({"input": "x", "truncate_prompt_tokens": 5000}, "truncate_prompt_tokens", None),
    ],
)
def test_what_the_model_cannot_do_is_said_with_the_name_of_the_field(minilm, fields, param, code):
    reply = minilm.post("/v1/embeddings", json={"model": MODEL, **fields})
    error = reply.json()["error"]
    assert (reply.status_code, error["param"], error["code"]) == (400, param, code)


def test_a_text_that_is_too_long_can_be_cut(minilm):
    reply = minilm.post(
        "/v1/embeddings", json={"model": MODEL, "input": "word " * 600, "truncate_prompt_tokens": -1}
    ).json()
    assert reply["usage"]["prompt_tokens"] == 256


def test_a_chat_is_sent_to_the_right_route(minilm):
    reply = minilm.post("/v1/chat/completions", json={"model": MODEL, "messages": [{"role": "user", "content": "x"}]})
    assert reply.status_code == 400
    assert "/v1/embeddings" in reply.json()["error"]["message"]


def test_a_stranger_cannot_reach_it(minilm, stranger):
    reply = stranger.post("/v1/embeddings", json={"model": MODEL, "input": "x"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "model_not_found")


def test_the_ledger_agrees_with_the_engines_own_counters(minilm):
    def exact():
        items = minilm.get("/api/usage", params={"group_by": "model"}).json()["items"]
        item = next((item for item in items if item["model_name"] == MODEL and item["engine"]), None)
        return item and item["prompt_tokens"] == item["engine"]["prompt_tokens"] and item

    found = eventually(exact, 60, pause=1)
    assert found["completion_tokens"] == found["engine"]["completion_tokens"] == 0


@pytest.fixture(scope="module")
def reranker(product, acme, minilm):
    """A key of acme, in whose folder lies a reranker; what it is for is told by its files."""
    shutil.copytree(FOLDER, product.data / "tenants" / acme.slug / "models" / "overlap")
    key = acme.key()
    made = key.post("/api/models", json={"name": "overlap", "framework": "vllm", "config": {"model_path": "overlap"}})
    assert made.status_code == 201, made.text
    return key


def test_a_cross_encoder_ranks_and_scores_with_probabilities(reranker):
    documents = ["bread with butter", "python server cache", "the dog and the horse near a river"]
    body = {"model": "overlap", "query": "python cache", "documents": documents}
    reply = reranker.post("/v1/rerank", json={**body, "top_n": 2}, timeout=240)
    assert reply.status_code == 200, reply.text
    best, second = reply.json()["results"]
    assert (best["index"], best["document"]) == (1, documents[1])
    assert best["relevance_score"] > 0.9 > 0.5 > second["relevance_score"]
    pairs = {"model": "overlap", "text_1": ["python cache", "red apple"], "text_2": [documents[1]] * 2}
    same, other = (entry["score"] for entry in reranker.post("/v1/score", json=pairs).json()["data"])
    assert same == pytest.approx(best["relevance_score"], abs=1e-4)
    assert other < 0.5
    refused = reranker.post("/v1/embeddings", json={"model": "overlap", "input": "x"})
    assert refused.status_code == 400
    assert "/v1/rerank" in refused.json()["error"]["message"]
