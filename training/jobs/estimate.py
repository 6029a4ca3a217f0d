"""How much device memory a training takes, before it starts: what the ledger is asked for.

The trainer computes layers twice rather than keep what is inside them (TRL's default, "gradient checkpointing"), and
makes logits tile by tile (TRL's fused head), so that what grows with rows and their length is small. How much one layer
and one tile hold was fitted to peaks measured on CPUs (docs/training.md, "Memory"). All in bytes.
"""

from dataclasses import dataclass

from training.jobs.recipe import Recipe

MIB = 1024 * 1024
# Of a weight: bfloat16, and on a CPU float32 beside the file's own two bytes, whose pages count while they are read.
WIDTH = {"cpu": 6, "cuda": 2}
FLOAT = 4  # LoRA's own weights, whatever the base's
# The process with torch, transformers, TRL and what the allocator keeps; on a GPU its context instead.
OVERHEAD = {"cpu": 700 * MIB, "cuda": 1200 * MIB}
# Of the data set's file: its tokens and what is learnt of them, twice. They stay in main memory.
DATA_COPIES = {"cpu": 6, "cuda": 0}
LORA_COPIES = 4  # weights, gradients, and both of Adam's averages
# What a layer holds while it is computed again, in numbers per token: copies of what is as wide as the model, as its
# heads and as its inner layer.
HIDDEN_COPIES, HEAD_COPIES, INNER_COPIES = 30, 20, 18
ADAPTED = 7  # linear layers in a layer
TILE_TOKENS, TILE_WORDS, TILE_COPIES = 4096, 32768, 10


@dataclass(frozen=True)
class Estimate:
    """`weights` are the base's, `adapter` LoRA's with its gradients and the optimiser's state."""

    weights: int
    adapter: int
    activations: int
    overhead: int

    @property
    def total(self) -> int:
        return self.weights + self.adapter + self.activations + self.overhead


@dataclass(frozen=True)
class Shape:
    """Widths of a transformer: of the model, of all its heads for queries and for keys, of its inner layers."""

    layers: int
    hidden: int
    queries: int
    keys: int
    inner: int
    vocabulary: int

    @classmethod
    def of(cls, weights: int, parameters: dict) -> "Shape":
        """From config.json's numbers; the inner width is what so many weights leave for it."""
        hidden, layers = parameters.get("hidden_size") or 4096, parameters.get("num_hidden_layers") or 32
        heads = parameters.get("num_attention_heads") or 1
        head = parameters.get("head_dim") or hidden // heads
        queries, keys = heads * head, (parameters.get("num_key_value_heads") or heads) * head
        vocabulary = parameters.get("vocab_size") or 32000
        in_layers = max(weights - vocabulary * hidden, 0) // layers
        inner = max(in_layers - 2 * hidden * (queries + keys), 0) // (3 * hidden)
        return cls(layers, hidden, queries, keys, max(inner, hidden), vocabulary)

    @property
    def lora_weights(self) -> int:
        """Per rank: both sides of every linear layer, which is the most that can be adapted."""
        attention = 2 * (self.hidden + self.queries) + 2 * (self.hidden + self.keys)
        return self.layers * (attention + 3 * (self.hidden + self.inner))


def estimate(weights: int, parameters: dict, recipe: Recipe, device_kind: str, *, data_bytes: int = 0) -> Estimate:
    """Of a model with so many weights and these numbers of its config.json, taught with a file of so many bytes."""
    shape, width = Shape.of(weights, parameters), WIDTH[device_kind]
    return Estimate(
        weights=weights * width,
        adapter=shape.lora_weights * recipe.rank * FLOAT * LORA_COPIES,
        activations=_activations(shape, _tokens(parameters, recipe), recipe.rank),
        overhead=OVERHEAD[device_kind] + DATA_COPIES[device_kind] * data_bytes,
    )


def _tokens(parameters: dict, recipe: Recipe) -> int:
    """Of one step, if all its rows are as long as a row may be."""
    longest = min(recipe.max_seq_length, parameters.get("max_position_embeddings") or recipe.max_seq_length)
    return recipe.batch_size * longest


def _activations(shape: Shape, tokens: int, rank: int) -> int:
    between_layers = shape.layers * shape.hidden
    in_a_layer = HIDDEN_COPIES * shape.hidden + HEAD_COPIES * (shape.queries + shape.keys)
    in_a_layer += INNER_COPIES * shape.inner + ADAPTED * rank
    tile = min(tokens, TILE_TOKENS) * min(shape.vocabulary, TILE_WORDS) * TILE_COPIES
    return FLOAT * (tokens * (between_layers + in_a_layer) + tile)
