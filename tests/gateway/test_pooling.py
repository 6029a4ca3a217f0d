"""Embeddings, ranking and scores over HTTP: OpenAI's and the manager document's forms, metered, per mode."""

import base64
import json
import struct
from dataclasses import replace

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import EngineUnavailable, InvalidRequest
from gateway.api import replies
from gateway.api.generation import prepare_request
from gateway.api.operation import PreparedRequest
from gateway.api.pooling import EMBEDDING, RERANKING, SCORING
from gateway.routing.snapshot import ModelEntry
from tests.support.gateway_server import (
    CONFIG,
    MALLORY,
    MODEL,
    EngineProcess,
    chat,
    engine_folder,
    instance,
    served,
    snapshot,
)

EMBEDDER = ModelEntry("model-e", "tenant-a", "embedder", mode="Embedding", context=64)
RANKER = ModelEntry("model-r", "tenant-a", "ranker", mode="Reranker")
DOCUMENTS = ["Artificial intelligence is a branch of computer science.", "Deep learning", "what is what"]
QUERY = "What is artificial intelligence?"


@pytest.fixture(scope="module")
def gateway():
    with engine_folder() as folder:
        pooling, writing = EngineProcess(folder, runner="pooling"), EngineProcess(folder)
        instances = [
            instance(writing.endpoint),
            instance(pooling.endpoint, 2, model_id=EMBEDDER.id),
            instance(pooling.endpoint, 3, model_id=RANKER.id),
        ]
        world = snapshot(*instances, models=(MODEL, EMBEDDER, RANKER))
        with served(world, replace(CONFIG, max_body=300_000)) as running:
            yield running


@pytest.fixture
def client(gateway):
    gateway.ledger.clear()
    with gateway.client() as session:
        yield session


def embed(client, text, **fields):
    return client.post("/v1/embeddings", json={"model": "embedder", "input": text, **fields})


def rerank(client, **fields):
    return client.post("/v1/rerank", json={"model": "ranker", "query": QUERY, "documents": DOCUMENTS, **fields})


def error_of(reply) -> dict:
    assert set(reply.json()) == {"error"}
    return reply.json()["error"]


# --- embeddings


def test_texts_are_embedded_in_openais_form_and_metered(client, gateway):
    reply = embed(client, ["Hello, world!", "This is a test"], encoding_format="float")
    body = reply.json()
    assert reply.status_code == 200
    assert set(body) == {"object", "data", "model", "usage"}
    assert (body["object"], body["model"]) == ("list", "demo")
    assert [(entry["object"], entry["index"]) for entry in body["data"]] == [("embedding", 0), ("embedding", 1)]
    assert all(type(number) is float for number in body["data"][0]["embedding"])
    assert body["usage"] == {"prompt_tokens": 6, "total_tokens": 6}
    (record,) = gateway.ledger.wait()
    assert (record.route, record.model_name, record.status, record.http_status) == ("embeddings", "embedder", "ok", 200)
    assert (record.usage.prompt, record.usage.completion) == (6, 0)


@pytest.mark.parametrize(("given", "count"), [("hello", 1), (["a", "b", "c"], 3), ([1, 2, 3], 1), ([[1, 2], [3]], 2)])
def test_a_text_token_ids_or_lists_of_either_can_be_embedded(client, given, count):
    assert len(embed(client, given).json()["data"]) == count


def test_base64_holds_the_same_numbers_and_dimensions_are_passed_on(client):
    plain = embed(client, "one two", dimensions=8).json()["data"][0]["embedding"]
    packed = embed(client, "one two", dimensions=8, encoding_format="base64").json()["data"][0]["embedding"]
    assert struct.unpack("<8f", base64.b64decode(packed)) == pytest.approx(plain)


def test_the_stock_sdk_embeds(gateway):
    sdk = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="sk-serai-alice", max_retries=0)
    reply = sdk.embeddings.create(model="embedder", input=["cat", "cat", "dog"])
    cat, same, dog = (entry.embedding for entry in reply.data)
    assert cat == same != dog
    assert reply.usage.prompt_tokens == reply.usage.total_tokens == 3


def test_the_service_documents_route_embeds_the_model_in_the_path(client, gateway):
    body = {"input": ["Hello world", "How are you?"], "encoding_format": "float"}
    for prefix in ("/api", "/api/v1"):
        reply = client.post(f"{prefix}/models/embedder/embeddings", json=body).json()
        assert [set(entry) >= {"embedding", "index"} for entry in reply["data"]] == [True, True]
        assert reply["usage"] == {"prompt_tokens": 5, "total_tokens": 5}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": ""}, "input"), ({"input": []}, "input"), ({"input": [""]}, "input[0]"), ({"input": 5}, "input"),
        ({"input": {"text": "x"}}, "input"), ({"input": ["a", 1]}, "input[1]"), ({"input": [1, "a"]}, "input"),
        ({"input": [[]]}, "input[0]"), ({"input": [-1]}, "input"), ({"input": [[1], "a"]}, "input[1]"),
        ({"input": ["x"] * 2049}, "input"), ({"input": None}, "input"),
        ({"input": "x", "encoding_format": "int8"}, "encoding_format"),
        ({"input": "x", "dimensions": 0}, "dimensions"), ({"input": "x", "dimensions": 10**9}, "dimensions"),
        ({"input": "x", "dimensions": "many"}, "dimensions"),
        ({"input": "x", "truncate_prompt_tokens": 65}, "truncate_prompt_tokens"),
        ({"input": "x", "truncate_prompt_tokens": -2}, "truncate_prompt_tokens"),
    ],
)  # fmt: skip
def test_what_cannot_be_embedded_is_refused_by_the_name_of_the_field(client, fields, param):
    reply = client.post("/v1/embeddings", json={"model": "embedder", **fields})
    assert (reply.status_code, error_of(reply)["param"]) == (400, param)
    assert error_of(reply)["type"] == "invalid_request_error"


@pytest.mark.parametrize("given", ["", ["a", ""]])
def test_an_empty_text_is_called_empty(client, given):
    assert "must not be empty" in error_of(embed(client, given))["message"]


def test_a_body_beyond_the_limit_is_refused_unread(client):
    reply = embed(client, "x" * 300_001)
    assert (reply.status_code, error_of(reply)["type"]) == (413, "invalid_request_error")


# --- ranking


def test_documents_are_ranked_in_the_manager_documents_form(client, gateway):
    body = rerank(client).json()
    assert body["object"] == "rerank"
    assert all(list(result) == ["index", "document", "relevance_score"] for result in body["results"])
    assert all(result["document"] == DOCUMENTS[result["index"]] for result in body["results"])
    scores = [result["relevance_score"] for result in body["results"]]
    assert scores == sorted(scores, reverse=True)
    assert sorted(result["index"] for result in body["results"]) == [0, 1, 2]
    assert body["usage"]["prompt_tokens"] == body["usage"]["total_tokens"] > 0
    (record,) = gateway.ledger.wait()
    assert (record.route, record.usage.prompt) == ("rerank", body["usage"]["prompt_tokens"])


def test_the_best_alone_can_be_asked_for_and_without_their_texts(client):
    everything, best = rerank(client).json(), rerank(client, top_n=1, return_documents=False).json()
    first = everything["results"][0]
    assert best["results"] == [{"index": first["index"], "relevance_score": first["relevance_score"]}]
    assert len(rerank(client, top_n=99).json()["results"]) == 3


def test_documents_may_be_objects_with_a_text_as_other_rerankers_take_them(client):
    objects = [{"text": text, "id": 7} for text in DOCUMENTS]
    assert rerank(client, documents=objects).json() == rerank(client).json()


def test_an_embedding_model_ranks_too(client):
    assert rerank(client, model="embedder").json()["results"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"query": None}, "query"), ({"query": ""}, "query"), ({"query": ["a"]}, "query"),
        ({"documents": None}, "documents"), ({"documents": []}, "documents"), ({"documents": "one"}, "documents"),
        ({"documents": [1]}, "documents[0]"), ({"documents": [{}]}, "documents[0].text"),
        ({"documents": ["x"] * 2049}, "documents"), ({"top_n": 0}, "top_n"), ({"top_n": "all"}, "top_n"),
        ({"return_documents": "yes"}, "return_documents"),
    ],
)  # fmt: skip
def test_what_cannot_be_ranked_is_refused_by_the_name_of_the_field(client, fields, param):
    reply = rerank(client, **fields)
    assert (reply.status_code, error_of(reply)["param"]) == (400, param)


# --- ranking in the form of Cohere and vLLM


@pytest.mark.parametrize("path", ["/rerank", "/v2/rerank"])
def test_documents_are_ranked_in_coheres_form_by_the_same_core(client, gateway, path):
    asked = {"model": "ranker", "query": QUERY, "documents": DOCUMENTS, "top_n": 2}
    plain, body = rerank(client, top_n=2).json(), client.post(path, json=asked).json()
    assert set(body) == {"id", "model", "results", "meta", "usage"}
    assert body["results"] == [
        {**result, "document": {"text": DOCUMENTS[result["index"]]}} for result in plain["results"]
    ]
    assert body["usage"] == plain["usage"]
    assert body["meta"]["tokens"] == {"input_tokens": plain["usage"]["prompt_tokens"], "output_tokens": 0}
    first, second = gateway.ledger.wait(2)
    assert (first.route, first.usage) == (second.route, second.usage)
    bare = client.post(path, json={**asked, "return_documents": False}).json()["results"]
    assert [set(result) for result in bare] == [{"index", "relevance_score"}] * 2


def test_a_model_on_another_engine_has_this_form_too():
    cpp = replace(RANKER, engine="llama.cpp")
    with engine_folder() as folder:
        world = snapshot(instance(EngineProcess(folder, runner="pooling").endpoint, model_id=cpp.id), models=(cpp,))
        with served(world) as running, running.client() as client:
            body = client.post("/v2/rerank", json={"model": "ranker", "query": QUERY, "documents": DOCUMENTS}).json()
    assert all(result["document"] == {"text": DOCUMENTS[result["index"]]} for result in body["results"])


@pytest.mark.parametrize("path", ["/rerank", "/v2/rerank"])
def test_it_refuses_what_the_other_form_refuses(client, gateway, path):
    reply = client.post(path, json={"model": "ranker", "query": QUERY})
    assert (reply.status_code, error_of(reply)["param"]) == (400, "documents")
    assert client.get(path).status_code == 405
    with gateway.client(MALLORY) as mallory, gateway.client(None) as nobody:
        body = {"model": "ranker", "query": QUERY, "documents": DOCUMENTS}
        assert mallory.post(path, json=body).status_code == 404
        assert nobody.post(path, json=body).status_code == 401


# --- scores


def test_pairs_are_scored_one_against_many_or_each_against_its_own(client, gateway):
    one = client.post("/v1/score", json={"model": "ranker", "text_1": "a b", "text_2": ["a b", "c d"]}).json()
    assert [entry["score"] for entry in one["data"]] == pytest.approx([1.0, 0.0])
    assert [(entry["object"], entry["index"]) for entry in one["data"]] == [("score", 0), ("score", 1)]
    many = {"model": "embedder", "queries": ["a b", "c"], "documents": ["c d", "c"]}
    scores = [entry["score"] for entry in client.post("/v1/score", json=many).json()["data"]]
    assert scores == pytest.approx([0.0, 1.0])
    assert [record.route for record in gateway.ledger.wait(2)] == ["score", "score"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "text_1"), ({"text_1": "a"}, "text_2"), ({"queries": "a", "text_2": "b"}, "documents"),
        ({"text_1": ["a", "b"], "text_2": ["a"]}, "text_2"), ({"text_1": [], "text_2": "b"}, "text_1"),
        ({"text_1": 1, "text_2": "b"}, "text_1"),
    ],
)  # fmt: skip
def test_what_is_no_pair_is_refused_by_the_name_of_the_field(client, fields, param):
    reply = client.post("/v1/score", json={"model": "ranker", **fields})
    assert (reply.status_code, error_of(reply)["param"]) == (400, param)


# --- modes, strangers, engines that fail


@pytest.mark.parametrize(
    ("route", "body", "mode", "right"),
    [
        ("/v1/embeddings", {"model": "demo", "input": "x"}, "Chat", "/v1/chat/completions"),
        ("/v1/rerank", {"model": "demo", "query": "x", "documents": ["y"]}, "Chat", "/v1/chat/completions"),
        ("/v1/embeddings", {"model": "ranker", "input": "x"}, "Reranker", "/v1/rerank"),
        ("/v1/chat/completions", chat(model="embedder"), "Embedding", "/v1/embeddings"),
        ("/v1/completions", {"model": "ranker", "prompt": "x"}, "Reranker", "/v1/rerank"),
    ],
)
def test_a_model_of_another_mode_is_refused_with_the_route_that_it_has(client, gateway, route, body, mode, right):
    reply = client.post(route, json=body)
    error = error_of(reply)
    assert (reply.status_code, error["param"]) == (400, "model")
    assert mode in error["message"]
    assert right in error["message"]
    assert gateway.starts == []


def test_under_rest_it_is_an_invalid_field(client):
    reply = client.post("/api/models/demo/embeddings", json={"input": "x"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (422, "INVALID_REQUEST")


def test_tokens_of_an_embedding_model_can_be_counted(client):
    assert client.post("/tokenize", json={"model": "embedder", "prompt": "a b c"}).json()["count"] == 3


@pytest.mark.parametrize("route", ["/v1/embeddings", "/v1/rerank", "/v1/score", "/api/models/embedder/embeddings"])
def test_a_stranger_meets_no_such_model(gateway, route):
    body = {"model": "embedder", "input": "x", "query": "x", "documents": ["y"], "text_1": "x", "text_2": "y"}
    with gateway.client(MALLORY) as mallory:
        foreign, missing = mallory.post(route, json=body), mallory.post(route, json=body | {"model": "nothing"})
    assert foreign.status_code == 404
    if route.startswith("/v1"):
        assert foreign.text.replace("embedder", "") == missing.text.replace("nothing", "")


def test_an_engine_that_fails_or_answers_nonsense_is_told_in_our_words(client, gateway):
    failed, nonsense = embed(client, "[[error_status=500]]"), embed(client, "[[garbage]]")
    assert [(reply.status_code, error_of(reply)["code"]) for reply in (failed, nonsense)] == [
        (503, "engine_unavailable")
    ] * 2
    assert "secret" not in failed.text
    assert [record.usage.prompt for record in gateway.ledger.wait(2)] == [0, 0]


def test_an_engine_without_the_route_means_that_it_is_not_there(client):
    reply = client.post("/v1/score", json={"model": "ranker", "text_1": "[[error_status=501]]", "text_2": "x"})
    assert (reply.status_code, error_of(reply)["type"]) == (404, "invalid_request_error")
    assert "/v1/score" in error_of(reply)["message"]


# --- what is forwarded


def ready(operation, model=EMBEDDER, **body) -> PreparedRequest:
    return prepare_request(operation, body, model, "tenant-a", b"key")


def test_fields_that_are_unknown_dangerous_or_ours_never_reach_the_engine():
    more = {"user": "them", "cache_salt": "theirs", "priority": -1, "messages": [], "mm_processor_kwargs": {},
            "request_id": "r", "chat_template": "{{ 1 }}", "activation": False}  # fmt: skip
    payload = ready(EMBEDDING, input="x", **more).payload
    assert set(payload) == {"input", "cache_salt", "user"}
    assert payload["user"] == "tenant-a"
    assert payload["cache_salt"] != "theirs"
    ranked = ready(RERANKING, query="x", documents=["y"], top_n=1, return_documents=False, **more)
    assert set(ranked.payload) == {"query", "documents", "cache_salt", "user"}


@pytest.mark.parametrize(
    ("operation", "raw"),
    [
        (EMBEDDING, {"data": 5, "model": "m"}), (EMBEDDING, {"data": [{}], "model": "m"}), (EMBEDDING, {"data": []}),
        (RERANKING, {"results": [{"index": 7, "relevance_score": 1.0}], "model": "m"}),
        (RERANKING, {"results": [{"index": 0, "relevance_score": None}] * 2, "model": "m"}),
        (RERANKING, {"results": None, "model": "m"}), (SCORING, {"data": [{"index": 0}], "model": "m"}),
    ],
)  # fmt: skip
def test_a_reply_that_is_none_is_the_engines_failure(operation, raw):
    with pytest.raises(EngineUnavailable):
        replies.convert_reply(operation, json.dumps(raw).encode(), PreparedRequest({}, documents=["x"]))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
POOLING = [(EMBEDDING, EMBEDDER), (RERANKING, RANKER), (SCORING, RANKER)]


@given(
    asked=st.sampled_from(POOLING),
    fields=st.dictionaries(
        st.sampled_from(sorted(EMBEDDING.fields | RERANKING.fields | SCORING.fields)), JSON, max_size=6
    ),
)
def test_any_json_is_either_forwarded_as_json_or_refused_with_a_param(asked, fields):
    operation, model = asked
    try:
        body = prepare_request(operation, fields, model, "tenant-a", b"key").body("served")
    except InvalidRequest as error:
        assert error.param
    else:
        assert set(json.loads(body)) <= set(operation.fields) | {"model", "user", "cache_salt"}
