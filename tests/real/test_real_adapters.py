"""Adapters on the real vLLM: their own answers, and the base's as before, in one batch and after a refusal."""

import concurrent.futures

import pytest

from tests.real.test_real_engine import MODEL, PARIS, demo, question  # noqa: F401
from tests.support import adapter_files, live_adapters
from tests.support.waiting import eventually

LAYERS = {"layers": 4, "inputs": 384, "outputs": 256}  # of the demo model
FULL = 4  # adapters in one batch, by default


def answer(person, model):
    asked = question("What is the capital of France?", model=model, max_tokens=20)
    reply = person.post("/v1/chat/completions", json=asked)
    assert reply.status_code == 200, reply.text
    return reply.json()["choices"][0]["message"]["content"]


@pytest.fixture
def noisy(product, demo):  # noqa: F811
    """As many adapters as fit in a batch, each of which lets the demo model babble in its own way."""
    names = [f"noise-{number}" for number in range(1, FULL + 1)]
    for number, name in enumerate(names, 1):
        live_adapters.save_version(product, product.record["tenant"], MODEL, name, noise=number, **LAYERS)
        demo.post(f"/api/adapters/{name}/publish").raise_for_status()
    return names


def test_adapters_answer_in_their_own_way_and_the_base_as_before_though_all_are_in_one_batch(product, demo, noisy):  # noqa: F811
    assert PARIS not in {answer(demo, name) for name in noisy}
    asked = [MODEL, *noisy] * 6
    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        said = list(zip(asked, pool.map(lambda model: answer(demo, model), asked), strict=True))
    assert all((text == PARIS) == (model == MODEL) for model, text in said), said

    live_adapters.save_version(
        product, product.record["tenant"], MODEL, noisy[0], **LAYERS
    )  # zeros: it changes nothing
    demo.post(f"/api/adapters/{noisy[0]}/publish").raise_for_status()
    eventually(lambda: answer(demo, noisy[0]) == PARIS, 60)
    demo.post(f"/api/adapters/{noisy[0]}/rollback", json={"version": 1}).raise_for_status()
    eventually(lambda: answer(demo, noisy[0]) != PARIS, 60)


def test_an_adapter_for_another_model_is_refused_and_the_base_goes_on(product, demo):  # noqa: F811
    live_adapters.save_version(product, product.record["tenant"], MODEL, "alien", make=alien)
    demo.post("/api/adapters/alien/publish").raise_for_status()
    refused = demo.post("/v1/chat/completions", json=question("Hello!", model="alien"))
    assert refused.status_code == 503
    assert "expected target modules" in refused.text
    assert answer(demo, MODEL) == PARIS


def alien(path):
    folder = adapter_files.write_folder(path)
    shapes = {f"base_model.model.model.layers.0.mixer.lora_{side}.weight": [4, 4] for side in "AB"}
    (folder / "adapter_model.safetensors").write_bytes(adapter_files.tensors(shapes))
    return folder
