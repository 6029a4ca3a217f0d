"""Estimates that engines share: the size of a KV cache, the length of a sequence, the number of CPU threads."""

import os
from collections.abc import Mapping

from django.conf import settings

from models_app.artefacts import Artefact
from models_app.models import Model

# Without this limit a model with a very long context would claim a whole device for one sequence.
DEFAULT_CONTEXT_LIMIT = 32768


def kv_bytes_per_token(parameters: Mapping[str, int], width: float) -> int:
    """Keys and values of one token over all layers, in bytes, at `width` bytes per number."""
    heads = parameters.get("num_attention_heads") or 1
    kv_heads = parameters.get("num_key_value_heads") or heads
    head_size = parameters.get("head_dim") or (parameters.get("hidden_size") or 4096) // heads
    return int(2 * (parameters.get("num_hidden_layers") or 32) * kv_heads * head_size * width)


def adapter_bytes(parameters: Mapping[str, int], rank: int, width: int) -> int:
    """Bytes of an adapter of all linear layers, embeddings and head: `rank` numbers per input and output of a layer."""
    hidden = parameters.get("hidden_size") or 4096
    heads = parameters.get("num_attention_heads") or 1
    head_size = parameters.get("head_dim") or hidden // heads
    queries, keys = heads * head_size, (parameters.get("num_key_value_heads") or heads) * head_size
    inner = parameters.get("intermediate_size") or 4 * hidden
    attention = 2 * (hidden + queries) + 2 * (hidden + keys)
    features = (parameters.get("num_hidden_layers") or 32) * (attention + 3 * (hidden + inner))
    return rank * (features + 2 * (hidden + (parameters.get("vocab_size") or 32_000))) * width


def configured_context(model: Model) -> int | None:
    configured: int | None = model.config.get("max_model_len") or model.config.get("n_ctx")
    return configured


def context_length(model: Model, artefact: Artefact) -> int:
    """Tokens of one sequence: as configured, else the model's own length up to a limit."""
    return configured_context(model) or min(
        artefact.parameters.get("max_position_embeddings") or 2048, DEFAULT_CONTEXT_LIMIT
    )


def cpu_threads() -> int:
    """Compute threads of one engine, unless its model sets them."""
    return settings.ENGINE_THREADS or max(1, (os.cpu_count() or 2) // 2)
