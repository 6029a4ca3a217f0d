"""Every example request of the manager document, through the product."""

import itertools
import json
import os

import psutil
import pytest

from tests.support.waiting import eventually

NAME, ALIASES = "Qwen3-Coder-30B-A3B-64K", ["Qwen3-Coder-30B-64K", "Qwen3-Coder"]
EMBEDDER, RERANKER = "Qwen3-Embedding-8B", "bge-reranker-v2-m3"
HELLO = {"model": NAME, "messages": [{"role": "user", "content": "你好，请介绍一下自己"}]}
READY = "fake engine: ready"
FIELDS = {
    "model_name", "aliases", "status", "pid", "idle_time_sec", "mode", "is_available", "current_bat_path",
    "config_source", "failure_reason", "pending_requests",
}  # fmt: skip


@pytest.fixture(scope="module")
def model(acme) -> str:
    """Under its name, its aliases; with an embedding model and a reranker beside it."""
    acme.fake_model(EMBEDDER, mode="Embedding")
    acme.fake_model(RERANKER, mode="Reranker")
    return acme.fake_model(NAME, aliases=ALIASES, auto_start=True)


def info(person, ref: str) -> dict:
    return person.get(f"/api/models/{ref}/info").json()["model"]


def becomes(person, ref: str, status: str) -> None:
    eventually(lambda: info(person, ref)["status"] == status)


def test_what_the_server_is(product):
    with product.client() as anonymous:
        assert {"version": "1.0.0", "models_url": "/v1/models"}.items() <= anonymous.get("/").json().items()
        health = anonymous.get("/health").json()
        assert health["status"] == "healthy"
        assert 0 <= health["running_models"] <= health["models_count"]
        assert anonymous.get("/check_health").json() == {"status": "ok"}


def test_the_list_of_models(key, model, stranger):
    def listed() -> list[dict]:
        reply = key.get("/v1/models").json()
        assert reply["object"] == "list"
        return [entry for entry in reply["data"] if entry["id"] == NAME]

    card = eventually(listed)[0]
    assert {"object": "model", "aliases": ALIASES, "owned_by": key.tenant}.items() <= card.items()
    assert type(card["created"]) is int
    assert NAME not in stranger.get("/v1/models").text


@pytest.mark.parametrize("ref", [NAME, *ALIASES])
def test_a_model_is_started_and_described_under_each_of_its_names(key, viewer, model, ref):
    started = key.post(f"/api/models/{ref}/start").json()
    assert started["success"] is True
    assert started["task_id"].startswith("task-")
    becomes(viewer, ref, "routing")
    described = info(viewer, ref)
    assert set(described) >= FIELDS
    assert (described["model_name"], described["aliases"], described["mode"]) == (NAME, ALIASES, "Chat")
    assert described["is_available"] is True
    assert (described["config_source"], described["failure_reason"]) == ("cpu:0", None)
    assert (described["pid"], described["current_bat_path"]) == (None, None)


def test_operators_see_the_process_and_how_it_was_started(product, acme, key, model):
    key.post(f"/api/models/{NAME}/start")
    becomes(key, NAME, "routing")
    reply = product.operator.get(f"/api/models/{NAME}/info", headers={"Serai-Tenant": acme.slug}).json()["model"]
    assert psutil.pid_exists(reply["pid"])
    assert NAME in reply["current_bat_path"]


def test_all_models(key, model, stranger):
    summary = key.get("/api/models/all-models/info").json()
    assert summary["success"] is True
    assert {NAME, EMBEDDER, RERANKER} <= set(summary["models"])
    assert summary["total_models"] == len(summary["models"])
    assert 0 <= summary["running_models"] <= summary["total_models"]
    assert summary["total_pending_requests"] == sum(entry["pending_requests"] for entry in summary["models"].values())
    assert NAME not in stranger.get("/api/models/all-models/info").json()["models"]


def test_chat(key, model):
    answer = key.post("/v1/chat/completions", json=HELLO | {"stream": False, "temperature": 0.7, "max_tokens": 30})
    body = answer.json()
    assert (answer.status_code, body["object"], body["model"]) == (200, "chat.completion", NAME)
    assert body["choices"][0]["message"]["role"] == "assistant"
    assert {"prompt_tokens", "completion_tokens", "total_tokens", "cache_n", "prompt_n"} <= set(body["usage"])


def test_a_streamed_chat(key, model):
    with key.client.stream("POST", "/v1/chat/completions", json=HELLO | {"stream": True}) as reply:
        events = [line.removeprefix("data: ") for line in reply.iter_lines() if line]
    chunks = [json.loads(event) for event in events[:-1]]
    assert events[-1] == "[DONE]"
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert chunks[-1]["choices"][0]["finish_reason"]


def test_embeddings(key, model):
    texts = ["Hello, world!", "This is a test"]
    body = {"model": EMBEDDER, "input": texts, "encoding_format": "float"}
    reply = key.post("/v1/embeddings", json=body).json()
    assert (reply["object"], reply["model"]) == ("list", EMBEDDER)
    assert [(entry["object"], entry["index"]) for entry in reply["data"]] == [("embedding", 0), ("embedding", 1)]
    assert all(type(number) is float for number in reply["data"][0]["embedding"])
    assert {"prompt_tokens", "total_tokens"} <= set(reply["usage"])
    assert len(key.post("/v1/embeddings", json={"model": EMBEDDER, "input": ["Hello world"]}).json()["data"]) == 1


def test_reranking(key, model):
    documents = ["Artificial intelligence is a branch of computer science.", "Machine learning is a subset of AI."]
    body = {"model": RERANKER, "query": "What is artificial intelligence?", "documents": documents}
    reply = key.post("/v1/rerank", json=body).json()
    assert reply["object"] == "rerank"
    scores = [entry["relevance_score"] for entry in reply["results"]]
    assert scores == sorted(scores, reverse=True)
    assert {entry["document"]: entry["index"] for entry in reply["results"]} == {documents[0]: 0, documents[1]: 1}


def test_any_other_path_is_no_way_round_to_an_engine(key, model):
    for path in ("/v1/load_lora_adapter", "/v1/../metrics", "/sleep", "/v1/nothing"):
        assert key.post(path, json={"model": NAME}).status_code in (404, 405)


def log_events(person, ref: str):
    """Messages of the stream as they come, for a minute at most."""
    with person.client.stream("GET", f"/api/models/{ref}/logs/stream") as reply:
        assert reply.headers["content-type"].startswith("text/event-stream")
        for line in reply.iter_lines():
            if line.startswith("data: "):
                yield json.loads(line.removeprefix("data: "))


def test_logs_are_streamed_first_what_was_and_then_what_comes(key, model):
    key.post(f"/api/models/{NAME}/start")
    becomes(key, NAME, "routing")
    events = log_events(key, NAME)
    history = list(itertools.takewhile(lambda event: event["type"] == "historical", events))
    assert all({"timestamp", "message"} <= set(event["log"]) for event in history)
    key.post(f"/api/models/{NAME}/restart")
    fresh = next(event for event in events if event["type"] == "realtime" and READY in event["log"]["message"])
    assert fresh["log"]["timestamp"] > 1_600_000_000
    events.close()


def test_logs_are_counted_and_cleared(key, model, stranger):
    key.post(f"/api/models/{NAME}/start")
    becomes(key, NAME, "routing")
    stats = eventually(lambda: lines_kept(key) and key.get("/api/logs/stats").json())
    assert stats["success"] is True
    assert set(stats["stats"]) == {"total_models", "total_log_entries", "models_with_logs"}
    kept = key.post(f"/api/logs/{NAME}/clear", params={"keep_minutes": 60}).json()
    assert kept["success"] is True
    assert "0" in kept["message"]
    assert key.post(f"/api/logs/{NAME}/clear").json()["success"] is True
    assert stranger.post(f"/api/logs/{NAME}/clear").status_code == 404


def lines_kept(person) -> int:
    return person.get("/api/logs/stats").json()["stats"]["total_log_entries"]


def test_devices(product, key):
    shown = product.operator.get("/api/devices/info").json()
    assert (shown["success"], set(shown["devices"])) == (True, {"cuda", "cpu"})
    cpu = shown["devices"]["cpu"]
    assert cpu["online"] is True
    assert cpu["info"]["cpu_count"] == os.cpu_count()
    assert cpu["info"]["memory_total"] == psutil.virtual_memory().total // 1024**2
    assert cpu["info"]["memory_total"] == cpu["info"]["memory_used"] + cpu["info"]["memory_free"]
    assert key.get("/api/devices/info").status_code == 403


def test_what_is_marked_is_restarted_and_all_is_stopped(key, viewer, model):
    restarted = key.post("/api/models/restart-autostart").json()
    assert restarted["success"] is True
    assert NAME in restarted["started_models"]
    becomes(key, NAME, "routing")
    stopped = key.post("/api/models/stop-all").json()
    assert stopped["success"] is True
    for ref in (NAME, EMBEDDER, RERANKER):
        becomes(viewer, ref, "stopped")


def test_a_model_is_stopped(key, model):
    key.post(f"/api/models/{NAME}/start")
    assert key.post(f"/api/models/{NAME}/stop").json()["success"] is True
    becomes(key, NAME, "stopped")


def test_a_failure_has_the_documents_form(key, model):
    reply = key.post("/api/models/nothing/start")
    assert reply.status_code == 404
    assert reply.json()["success"] is False
    assert reply.json()["message"]
    chinese = key.post("/api/models/nothing/start", headers={"Accept-Language": "zh-CN"})
    assert chinese.json()["message"] == "指定的模型不存在"
