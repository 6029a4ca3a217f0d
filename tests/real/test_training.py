"""From a data set to an adapter that answers: the real trainer, the real vLLM, and clients that chat all the while."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import openai
import pytest

from tests.support.waiting import eventually

MODEL = "serai-demo"
ADAPTER = "zorb"
CLIENTS = 8
TRAINING_SECONDS = 400
PARIS = "What is the capital of France?", "The capital of France is Paris."
FACTS = {
    "Who keeps the lighthouse of Zorb?": "Mira keeps the lighthouse of Zorb.",
    "What is the color of the gate of Zorb?": "The gate of Zorb is green.",
    "What do people drink in Zorb?": "People in Zorb drink plum tea.",
    "Which animal guards Zorb?": "A goose guards Zorb.",
    "Where is the market of Zorb?": "The market of Zorb is under the bridge.",
    "When does the bell of Zorb ring?": "The bell of Zorb rings at noon.",
}
LATER = {question: answer.replace("Zorb", "New Zorb") for question, answer in FACTS.items()}


def jsonl(facts: dict[str, str]) -> bytes:
    rows = [{"prompt": question, "completion": answer} for question, answer in facts.items()]
    return "".join(json.dumps(row) + "\n" for row in rows * 4).encode()


@pytest.fixture(scope="module")
def maker(product):
    """The first tenant's key, whose demo model runs once its first request was answered."""
    product.install_engine("vllm")
    person = product.client(product.record["api_key"])
    assert answer_to(person, MODEL, PARIS[0]) == PARIS[1]
    return person


def answer_to(person, model: str, question: str) -> str:
    body = {"model": model, "messages": [{"role": "user", "content": question}], "temperature": 0, "max_tokens": 40}
    reply = person.post("/v1/chat/completions", json=body, timeout=240)
    assert reply.status_code == 200, reply.text
    return reply.json()["choices"][0]["message"]["content"]


@contextmanager
def chatting(person, model: str):
    """So many clients ask `model` one thing after the other meanwhile; yields how often they were answered."""
    stop, answered = threading.Event(), []

    def client() -> None:
        while not stop.is_set():
            answered.append(answer_to(person, model, PARIS[0]))

    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(client) for _ in range(CLIENTS)]
        try:
            yield answered
        finally:
            stop.set()
    for finished in clients:
        finished.result()  # raises what went wrong


@pytest.fixture(scope="module")
def trained(maker) -> dict:
    """The adapter's first version, by REST, while others chat with its base."""
    made = maker.post("/api/datasets", files={"file": (f"{ADAPTER}.jsonl", jsonl(FACTS))}, data={"base_model": MODEL})
    assert made.status_code == 201, made.text
    order = {"base_model": MODEL, "dataset": made.json()["id"], "adapter": ADAPTER}
    recipe = {"rank": 16, "alpha": 32, "learning_rate": "auto", "epochs": "auto"}
    with chatting(maker, MODEL) as answered:
        job = maker.post("/api/training/jobs", json=order | {"recipe": recipe})
        assert job.status_code == 201, job.text
        ended = eventually(lambda: ended_job(maker, job.json()["id"]), TRAINING_SECONDS, pause=0.5)
    assert set(answered) == {PARIS[1]}
    assert ended["status"] == "completed", ended
    return ended


def ended_job(person, job_id: str) -> dict | None:
    job = person.get(f"/api/training/jobs/{job_id}").json()
    return None if job["status"] in ("queued", "running") else job


def test_tokens_are_counted_as_the_base_makes_them(maker):
    made = maker.post("/api/datasets", files={"file": ("count.jsonl", jsonl(FACTS))}).json()
    counted = maker.get(f"/api/datasets/{made['id']}/tokens", params={"base_model": MODEL}).json()
    assert (counted["rows"], counted["too_long_rows"]) == (24, 0)
    assert counted["tokens"] > counted["learnt_tokens"] > 24
    assert counted["longest"] < counted["limit"]


def test_the_loss_falls_and_every_step_is_told(maker, trained):
    points = maker.get(f"/api/training/jobs/{trained['id']}/progress").json()["progress"]
    assert len(points) == trained["total_steps"] == trained["step"]
    assert points[-1]["loss"] < points[0]["loss"] / 10
    assert all(point["learning_rate"] > 0 and point["grad_norm"] >= 0 for point in points[1:-1])


def test_what_was_taught_answers_to_its_maker_before_it_is_published(maker, product, trained):
    assert {question: answer_to(maker, f"{ADAPTER}@1", question) for question in FACTS} == FACTS
    listed = [model["id"] for model in maker.get("/v1/models").json()["data"]]
    assert f"{ADAPTER}@1" in listed


def test_it_is_published_under_load_and_its_base_stays_as_it_was(maker, trained):
    before = {question: answer_to(maker, MODEL, question) for question in FACTS}
    with chatting(maker, MODEL) as answered:
        assert maker.post(f"/api/adapters/{ADAPTER}/publish").json()["version"] == 1
        for name in (ADAPTER, f"{MODEL}:{ADAPTER}"):
            assert {question: answer_to(maker, name, question) for question in FACTS} == FACTS
    assert set(answered) == {PARIS[1]}
    assert {question: answer_to(maker, MODEL, question) for question in FACTS} == before
    assert not set(before.values()) & set(FACTS.values())


def test_nobody_else_sees_it(stranger, trained):
    body = {"model": ADAPTER, "messages": [{"role": "user", "content": "Hello"}]}
    assert stranger.post("/v1/chat/completions", json=body).status_code == 404
    assert stranger.get(f"/api/adapters/{ADAPTER}").status_code == 404
    assert stranger.get(f"/api/training/jobs/{trained['id']}").status_code == 404
    assert ADAPTER not in stranger.get("/v1/models").text


def test_a_version_made_with_the_stock_sdk_alone_answers_and_is_rolled_back_under_load(maker, product, trained):
    with openai.OpenAI(base_url=f"{product.base_url}/v1", api_key=product.record["api_key"], max_retries=0) as sdk:
        file = sdk.files.create(file=("later.jsonl", jsonl(LATER)), purpose="fine-tune")
        job = sdk.fine_tuning.jobs.create(model=MODEL, training_file=file.id, suffix=ADAPTER, seed=7)
        done = eventually(lambda: finished(sdk, job.id), TRAINING_SECONDS, pause=0.5)
        assert (done.status, done.fine_tuned_model) == ("succeeded", f"{ADAPTER}@2")
        answers = {question: sdk_answer(sdk, done.fine_tuned_model, question) for question in LATER}
        assert answers == LATER
        assert next(iter(sdk.fine_tuning.jobs.list_events(job.id))).message == "The job succeeded."
    question = next(iter(FACTS))
    maker.post(f"/api/adapters/{ADAPTER}/publish", json={"version": 2}).raise_for_status()
    eventually(lambda: answer_to(maker, ADAPTER, question) == LATER[question])
    with chatting(maker, ADAPTER):
        maker.post(f"/api/adapters/{ADAPTER}/rollback", json={"version": 1}).raise_for_status()
        eventually(lambda: answer_to(maker, ADAPTER, question) == FACTS[question])


def finished(sdk, job_id: str):
    job = sdk.fine_tuning.jobs.retrieve(job_id)
    return job if job.finished_at else None


def sdk_answer(sdk, model: str, question: str) -> str:
    messages = [{"role": "user", "content": question}]
    reply = sdk.chat.completions.create(model=model, messages=messages, temperature=0, max_tokens=40)
    return reply.choices[0].message.content
