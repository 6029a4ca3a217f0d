"""Estimates the device memory of a training before it starts; this is what it claims in the ledger.

The trainer uses gradient checkpointing (TRL's default) and computes logits tile by tile (TRL's fused head), so that
little memory grows with the number and length of rows. What one layer and one tile hold was fitted to peaks measured
on CPUs (docs/training.md, "Memory"). All sizes are in bytes.
"""

from dataclasses import dataclass

from core.units import MIB
from training.jobs.recipe import Hyperparameters

# Per weight: 2 in bfloat16; on a CPU 4 in float32 and the file's own 2, whose mapped pages count while it is read.
WEIGHT_BYTES = {"cpu": 6, "cuda": 2}
FLOAT_BYTES = 4  # per LoRA weight, whatever the base's type
# The process with torch, transformers, TRL and the allocator's reserve; on a GPU its CUDA context instead.
OVERHEAD = {"cpu": 700 * MIB, "cuda": 1200 * MIB}
# Multiples of the dataset's file: token ids and labels, two copies each. They stay in main memory.
DATA_COPIES = {"cpu": 6, "cuda": 0}
LORA_COPIES = 4  # weights, gradients, and both of Adam's averages
# What a layer holds while it is recomputed, in numbers per token: copies as wide as the model, its heads and its inner
# layer.
HIDDEN_COPIES, HEAD_COPIES, INNER_COPIES = 30, 20, 18
MODULES_PER_LAYER = 7  # linear modules per layer
TILE_TOKENS, TILE_VOCABULARY, TILE_COPIES = 4096, 32768, 10


@dataclass(frozen=True)
class TrainingEstimate:
    """`weights` are the base's; `adapter` is LoRA's weights, gradients and optimiser state."""

    weights: int
    adapter: int
    activations: int
    overhead: int

    @property
    def total(self) -> int:
        return self.weights + self.adapter + self.activations + self.overhead


@dataclass(frozen=True)
class TransformerShape:
    """Dimensions of a transformer; `queries` and `keys` are the widths of all those heads, `inner` the MLP's width."""

    layers: int
    hidden: int
    queries: int
    keys: int
    inner: int
    vocabulary: int

    @classmethod
    def from_config(cls, weights: int, parameters: dict) -> "TransformerShape":
        """From config.json's numbers; the inner width is derived from the number of weights."""
        hidden, layers = parameters.get("hidden_size") or 4096, parameters.get("num_hidden_layers") or 32
        heads = parameters.get("num_attention_heads") or 1
        head_width = parameters.get("head_dim") or hidden // heads
        queries, keys = heads * head_width, (parameters.get("num_key_value_heads") or heads) * head_width
        vocabulary = parameters.get("vocab_size") or 32000
        layer_weights = max(weights - vocabulary * hidden, 0) // layers
        inner = max(layer_weights - 2 * hidden * (queries + keys), 0) // (3 * hidden)
        return cls(layers, hidden, queries, keys, max(inner, hidden), vocabulary)

    @property
    def lora_weights(self) -> int:
        """Per unit of rank, with every linear layer adapted, which is the maximum."""
        attention = 2 * (self.hidden + self.queries) + 2 * (self.hidden + self.keys)
        return self.layers * (attention + 3 * (self.hidden + self.inner))


def estimate(
    weights: int, parameters: dict, recipe: Hyperparameters, device_kind: str, *, data_bytes: int = 0
) -> TrainingEstimate:
    """`weights` is their number, `parameters` config.json's numbers, `data_bytes` the size of the dataset's file."""
    shape, width = TransformerShape.from_config(weights, parameters), WEIGHT_BYTES[device_kind]
    return TrainingEstimate(
        weights=weights * width,
        adapter=shape.lora_weights * recipe.rank * FLOAT_BYTES * LORA_COPIES,
        activations=_activations(shape, _step_tokens(parameters, recipe), recipe.rank),
        overhead=OVERHEAD[device_kind] + DATA_COPIES[device_kind] * data_bytes,
    )


def _step_tokens(parameters: dict, recipe: Hyperparameters) -> int:
    """The maximum for one step: all its rows have the maximum length."""
    longest = min(recipe.max_seq_length, parameters.get("max_position_embeddings") or recipe.max_seq_length)
    return recipe.batch_size * longest


def _activations(shape: TransformerShape, tokens: int, rank: int) -> int:
    between_layers = shape.layers * shape.hidden
    in_a_layer = HIDDEN_COPIES * shape.hidden + HEAD_COPIES * (shape.queries + shape.keys)
    in_a_layer += INNER_COPIES * shape.inner + MODULES_PER_LAYER * rank
    tile = min(tokens, TILE_TOKENS) * min(shape.vocabulary, TILE_VOCABULARY) * TILE_COPIES
    return FLOAT_BYTES * (tokens * (between_layers + in_a_layer) + tile)
