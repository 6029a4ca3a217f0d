"""Adapters on the fake engine under the real agent: published and rolled back under load, and re-applied."""

import threading
from contextlib import contextmanager

import pytest

from tests.live.test_lifecycle import becomes, chat, status
from tests.support import live_adapters
from tests.support.waiting import eventually

CLIENTS = 8


@pytest.fixture(scope="module")
def base(acme):
    return acme.fake_model(config={"model_path": "serai-demo", "enable_lora": True, "max_loras": 2, "max_cpu_loras": 2})


@pytest.fixture
def new_version(product, acme, base):
    """new_version(name, …) is the id of one more version of this adapter of the base."""
    return lambda name, **options: live_adapters.save_version(product, acme.slug, base, name, **options)


def said(reply) -> str:
    """The version that answered; the base's answers begin with a token. What failed is told as a whole."""
    if reply.status_code != 200:
        return f"{reply.status_code}: {reply.text}"
    return reply.json()["choices"][0]["message"]["content"].split()[0]


def publish(key, name, verb="publish", **body):
    reply = key.post(f"/api/adapters/{name}/{verb}", json=body)
    assert reply.status_code == 200, reply.text


@contextmanager
def crowd(key, *models):
    """Clients that ask these models one after the other, each on its own; yields what they were answered with."""
    answers, done = {model: [] for model in models}, threading.Event()

    def chat_until_over(number: int) -> None:
        model = models[number % len(models)]
        while not done.is_set():
            answers[model].append(said(chat(key, model, "[[token_interval=0.005]]")))

    threads = [threading.Thread(target=chat_until_over, args=[number]) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        done.set()
        for thread in threads:
            thread.join()


def more(answers: list, count: int = 20) -> None:
    seen = len(answers)
    eventually(lambda: len(answers) >= seen + count, 60)


def test_publishing_and_rolling_back_under_load_fails_nobody(key, base, new_version):
    assert said(chat(key, base)) == "token0"
    first = new_version("facts")
    with crowd(key, base) as answers:
        more(answers[base])
        publish(key, "facts")
        assert said(chat(key, "facts")) == said(chat(key, f"{base}:facts")) == first
        more(answers[base])
    assert set(answers[base]) == {"token0"}
    second = new_version("facts")
    with crowd(key, base, "facts") as answers:
        more(answers["facts"])
        publish(key, "facts")
        eventually(lambda: said(chat(key, "facts")) == second)  # gateways hear of it in a moment
        more(answers["facts"])
        publish(key, "facts", "rollback", version=1)
        eventually(lambda: said(chat(key, "facts")) == first)
        more(answers["facts"])
    assert set(answers[base]) == {"token0"}
    assert set(answers["facts"]) == {first, second}


def test_what_is_published_is_loaded_again_after_every_start_of_the_engine(key, base, new_version):
    version = new_version("lasting")
    publish(key, "lasting")
    assert said(chat(key, "lasting")) == version
    for force in (False, True):
        key.post(f"/api/models/{base}/restart", json={"force": force})
        assert said(chat(key, "lasting")) == version
    key.post(f"/api/models/{base}/stop")
    becomes(key, base, "stopped")
    assert said(chat(key, "lasting")) == version  # which has started its base
    assert status(key, base) == "running"
    publish(key, "lasting", "unpublish")
    eventually(lambda: said(chat(key, "lasting")).startswith("404"))


def test_a_trial_answers_to_its_maker_alone(key, acme, stranger, member, new_version):
    version = new_version("trial", key=key.key_id)
    assert said(chat(key, "trial")) == said(chat(key, "trial@1")) == said(chat(key, version)) == version
    names = [card["id"] for card in key.get("/v1/models").json()["data"]]
    assert "trial@1" in names
    for other in (acme.key(), member, stranger):
        assert said(chat(other, "trial")).startswith("404")
        assert "trial@1" not in other.get("/v1/models").text
    assert stranger.get("/api/adapters/trial").status_code == 404
    assert key.delete("/api/adapters/trial").status_code == 200
    eventually(lambda: said(chat(key, version)).startswith("404"))


def test_the_least_recently_used_makes_room(key, base, new_version):
    """The base takes two."""
    versions = {name: new_version(name) for name in ("one", "two", "three")}
    for name in versions:
        publish(key, name)
    for name in ("one", "two", "three", "one"):
        assert said(chat(key, name)) == versions[name]
    for name in versions:
        publish(key, name, "unpublish")


def test_an_adapter_that_the_engine_refuses_tells_its_word_and_the_base_goes_on(key, base, new_version, product):
    new_version("broken", refuse="size mismatch for q_proj")
    publish(key, "broken")
    assert "size mismatch for q_proj" in said(chat(key, "broken"))
    shown = key.get("/api/adapters/broken/versions").json()["items"][0]["loaded"]
    assert "size mismatch" in shown["error"]
    assert str(product.data) not in shown["error"]
    assert said(chat(key, base)) == "token0"
    publish(key, "broken", "unpublish")


def test_its_use_is_metered_under_its_own_name(key, new_version):
    new_version("metered")
    publish(key, "metered")
    for _request in range(3):
        chat(key, "metered", max_tokens=5)

    def used():
        rows = key.get("/api/usage", params={"group_by": "model"}).json()["items"]
        return {row["model_name"]: (row["requests"], row["completion_tokens"]) for row in rows}

    eventually(lambda: used().get("metered") == (3, 15))
    publish(key, "metered", "unpublish")


def test_a_base_that_runs_without_adapters_tells_the_way_out(product, acme, key):
    plain = acme.fake_model()
    assert said(chat(key, plain)) == "token0"
    live_adapters.save_version(product, acme.slug, plain, "late")
    refused = key.post("/api/adapters/late/publish")
    assert refused.status_code == 409
    assert "config.enable_lora" in refused.json()["message"]
    key.patch(f"/api/models/{plain}", json={"config": {"enable_lora": True}})
    assert "restart it" in key.post("/api/adapters/late/publish").json()["message"]
    key.post(f"/api/models/{plain}/restart")
    eventually(lambda: key.post("/api/adapters/late/publish").status_code == 200)
    assert said(chat(key, "late")).startswith("version-")
    publish(key, "late", "unpublish")
