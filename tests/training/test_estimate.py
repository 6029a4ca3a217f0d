"""The memory that a training is given: what it is made of, and that it grows with what makes it grow."""

from dataclasses import replace

import pytest

from core.units import MIB
from training.jobs.estimate import TransformerShape, estimate
from training.jobs.recipe import Hyperparameters

DEMO_WEIGHTS = 2_230_528
DEMO = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64,
        "vocab_size": 1024, "max_position_embeddings": 2048}  # fmt: skip
LLAMA_110M_WEIGHTS = 109_529_856
LLAMA_110M = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "num_key_value_heads": 12,
              "vocab_size": 32000, "max_position_embeddings": 2048}  # fmt: skip
LLAMA_8B = {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
            "vocab_size": 128256, "max_position_embeddings": 131072}  # fmt: skip


def test_the_shape_of_a_model_follows_from_its_weights_and_its_config():
    demo = TransformerShape.from_config(DEMO_WEIGHTS, DEMO)
    assert (demo.queries, demo.keys) == (256, 128)
    assert abs(demo.inner - 384) < 4
    # what PEFT counts on the demo model at rank 16 with all linear layers
    assert abs(demo.lora_weights * 16 - 237_568) < 237_568 * 0.01


# MiB of main memory at their peak, of trainings on a CPU in which every row was as long as a row may be
MEASURED = [
    (DEMO_WEIGHTS, DEMO, Hyperparameters(batch_size=4, max_seq_length=128, rank=8), 635),
    (DEMO_WEIGHTS, DEMO, Hyperparameters(batch_size=8, max_seq_length=2048, rank=64), 2333),
    (LLAMA_110M_WEIGHTS, LLAMA_110M, Hyperparameters(batch_size=2, max_seq_length=128, rank=8), 1540),
    (LLAMA_110M_WEIGHTS, LLAMA_110M, Hyperparameters(batch_size=4, max_seq_length=512, rank=16), 4469),
]


@pytest.mark.parametrize(("weights", "parameters", "recipe", "peak"), MEASURED)
def test_what_was_measured_fits_without_much_to_spare(weights, parameters, recipe, peak):
    assert 1 <= estimate(weights, parameters, recipe, "cpu").total / (peak * MIB) < 1.25


def test_a_model_of_eight_thousand_million_weights_fits_a_gpu_of_48_gib():
    found = estimate(8_030_000_000, LLAMA_8B, Hyperparameters(), "cuda")
    assert 16e9 < found.weights < 17e9
    assert found.total < 48 * 1024 * MIB


def test_longer_rows_more_of_them_and_a_higher_rank_take_more():
    recipe = Hyperparameters(batch_size=2, max_seq_length=512, rank=8)
    found = estimate(DEMO_WEIGHTS, DEMO, recipe, "cpu")
    for more in ({"batch_size": 4}, {"max_seq_length": 1024}, {"rank": 16}):
        assert estimate(DEMO_WEIGHTS, DEMO, replace(recipe, **more), "cpu").total > found.total


def test_rows_are_never_longer_than_the_model_can_read():
    short, long = (Hyperparameters(max_seq_length=length) for length in (2048, 100_000))
    assert estimate(DEMO_WEIGHTS, DEMO, short, "cpu") == estimate(DEMO_WEIGHTS, DEMO, long, "cpu")


def test_the_tokens_of_a_data_set_stay_in_main_memory():
    big = {
        kind: estimate(DEMO_WEIGHTS, DEMO, Hyperparameters(), kind, data_bytes=100 * MIB).total
        for kind in ("cpu", "cuda")
    }
    small = {kind: estimate(DEMO_WEIGHTS, DEMO, Hyperparameters(), kind).total for kind in ("cpu", "cuda")}
    assert big["cpu"] - small["cpu"] == 600 * MIB
    assert big["cuda"] == small["cuda"]
