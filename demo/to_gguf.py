"""Writes the demo model as a GGUF file, for llama.cpp: python -m demo.to_gguf OUT.gguf

Standard library only. It knows this one model's shape: a Llama in float16 with a byte-level BPE and tied embeddings.
"""

import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

MODEL = Path(__file__).parent / "serai-demo"
ALIGNMENT = 32
UINT32, FLOAT32, BOOL, TEXT, ARRAY, INT32 = 4, 6, 7, 8, 9, 5  # kinds of values (gguf.h)
F32, F16 = 0, 1  # kinds of tensors
NORMAL, CONTROL = 1, 3  # kinds of tokens
LAYER_NAMES = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip
OTHER_NAMES = {"model.embed_tokens": "token_embd", "model.norm": "output_norm"}


def write(path: Path, model: Path = MODEL, context: int | None = None) -> Path:
    """The file is about as large as the weights, 4 MB. Beyond its own `context` the model writes nonsense."""
    config = json.loads((model / "config.json").read_text())
    config["max_position_embeddings"] = context or config["max_position_embeddings"]
    metadata = {**_sizes(config), **_tokenizer(model, config)}
    tensors = list(_tensors(model, config))
    header = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    header += b"".join(_text(key) + value for key, value in metadata.items())
    offset = 0
    for name, shape, kind, data in tensors:
        header += _text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *reversed(shape), kind, offset)
        offset += _aligned(len(data))
    with path.open("wb") as file:
        for part in (header, *(data for _name, _shape, _kind, data in tensors)):
            file.write(part.ljust(_aligned(len(part)), b"\0"))
    return path


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


# --- metadata


def _sizes(config: dict) -> dict[str, bytes]:
    return {
        "general.architecture": _text_value("llama"),
        "general.name": _text_value("serai-demo"),
        "llama.context_length": _uint32(config["max_position_embeddings"]),
        "llama.embedding_length": _uint32(config["hidden_size"]),
        "llama.block_count": _uint32(config["num_hidden_layers"]),
        "llama.feed_forward_length": _uint32(config["intermediate_size"]),
        "llama.attention.head_count": _uint32(config["num_attention_heads"]),
        "llama.attention.head_count_kv": _uint32(config["num_key_value_heads"]),
        "llama.attention.key_length": _uint32(config["head_dim"]),
        "llama.attention.value_length": _uint32(config["head_dim"]),
        "llama.attention.layer_norm_rms_epsilon": struct.pack("<If", FLOAT32, config["rms_norm_eps"]),
        "llama.rope.dimension_count": _uint32(config["head_dim"]),
        "llama.rope.freq_base": struct.pack("<If", FLOAT32, config["rope_parameters"]["rope_theta"]),
        "llama.vocab_size": _uint32(config["vocab_size"]),
    }


def _tokenizer(model: Path, config: dict) -> dict[str, bytes]:
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    words = tokenizer["model"]["vocab"]
    control = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    tokens = sorted(words | control, key=(words | control).get)
    kinds = [CONTROL if token in control else NORMAL for token in tokens]
    template = (model / "chat_template.jinja").read_text()
    for training_mark in ("{%- generation %}", "{%- endgeneration %}", "{% generation %}", "{% endgeneration %}"):
        template = template.replace(training_mark, "")
    return {
        "tokenizer.ggml.model": _text_value("gpt2"),
        "tokenizer.ggml.pre": _text_value("gpt-2"),
        "tokenizer.ggml.tokens": _texts(tokens),
        "tokenizer.ggml.token_type": struct.pack(f"<IIQ{len(kinds)}i", ARRAY, INT32, len(kinds), *kinds),
        "tokenizer.ggml.merges": _texts([" ".join(pair) for pair in tokenizer["model"]["merges"]]),
        "tokenizer.ggml.bos_token_id": _uint32(config["bos_token_id"]),
        "tokenizer.ggml.eos_token_id": _uint32(config["eos_token_id"]),
        "tokenizer.ggml.padding_token_id": _uint32(config["pad_token_id"]),
        "tokenizer.ggml.add_bos_token": struct.pack("<I?", BOOL, False),
        "tokenizer.chat_template": _text_value(template),
    }


def _text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def _text_value(value: str) -> bytes:
    return struct.pack("<I", TEXT) + _text(value)


def _texts(values: list[str]) -> bytes:
    return struct.pack("<IIQ", ARRAY, TEXT, len(values)) + b"".join(map(_text, values))


def _uint32(value: int) -> bytes:
    return struct.pack("<II", UINT32, value)


# --- tensors


def _tensors(model: Path, config: dict) -> Iterator[tuple[str, list[int], int, bytes]]:
    """Name, shape, kind and bytes of each tensor; the output layer has the weights of the embedding."""
    raw = (model / "model.safetensors").read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:start])
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    for name, tensor in header.items():
        if name == "__metadata__":
            continue
        begin, end = tensor["data_offsets"]
        data, shape = raw[start + begin : start + end], tensor["shape"]
        layer = name.removesuffix(".weight")
        if count := heads.get(layer.rpartition(".")[2]):
            data = _interleaved(data, shape, count)
        yield f"{_name(layer)}.weight", shape, *((F32, _as_float32(data)) if len(shape) == 1 else (F16, data))


def _name(layer: str) -> str:
    if layer in OTHER_NAMES:
        return OTHER_NAMES[layer]
    _model, _layers, number, rest = layer.split(".", 3)
    return f"blk.{number}.{LAYER_NAMES[rest]}"


def _interleaved(data: bytes, shape: list[int], heads: int) -> bytes:
    """RoPE rotates adjacent rows of a head in llama.cpp and its two halves in transformers: the row order differs."""
    rows, width = shape[0], shape[1] * 2
    half = rows // heads // 2
    order = (head * half * 2 + part * half + row for head in range(heads) for row in range(half) for part in (0, 1))
    return b"".join(data[row * width : (row + 1) * width] for row in order)


def _as_float32(data: bytes) -> bytes:
    count = len(data) // 2
    return struct.pack(f"<{count}f", *struct.unpack(f"<{count}e", data))


if __name__ == "__main__":
    write(Path(sys.argv[1]))
