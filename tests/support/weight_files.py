"""Small weight files, valid or broken on purpose."""

import json
import struct
from pathlib import Path

CONFIG = {
    "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "vocab_size": 100,
}  # fmt: skip
TEXT, ARRAY, UINT32, FLOAT16, Q4_0 = 8, 9, 4, 1, 2


def safetensors(header: dict | None = None, data: bytes = bytes(8), length: int | None = None) -> bytes:
    header = {"w": {"dtype": "F16", "shape": [2, 2], "data_offsets": [0, 8]}} if header is None else header
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def folder(path: Path, config: dict | None = None, **files: bytes | dict) -> Path:
    """A valid model folder, with more `files` (`__` in a name stands for a dot)."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps(CONFIG | (config or {})))
    (path / "model.safetensors").write_bytes(safetensors())
    for name, content in files.items():
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        (path / name.replace("__", ".")).write_bytes(raw)
    return path


def text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def texts(*values: str, count: int | None = None) -> bytes:
    """An array of strings as a GGUF value, with its type in front."""
    return struct.pack("<IIQ", ARRAY, TEXT, len(values) if count is None else count) + b"".join(map(text, values))


def uint32(value: int) -> bytes:
    return struct.pack("<II", UINT32, value)


METADATA = {
    "general.architecture": struct.pack("<I", TEXT) + text("llama"),
    "llama.embedding_length": uint32(64),
    "llama.block_count": uint32(2),
    "llama.attention.head_count": uint32(4),
    "llama.attention.head_count_kv": struct.pack("<IIQ2I", ARRAY, UINT32, 2, 2, 1),
    "llama.context_length": uint32(512),
    "tokenizer.ggml.tokens": texts("a", "b", "ab"),
    "tokenizer.chat_template": struct.pack("<I", TEXT) + text("{{ messages }}"),
}


def tensor(name: str = "w", shape: tuple[int, ...] = (32,), kind: int = FLOAT16, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def gguf(
    metadata: dict[str, bytes] | None = None, tensors: list[bytes] | None = None, *, version: int = 3,
    counts: tuple[int, int] | None = None, data: bytes = bytes(64),
) -> bytes:  # fmt: skip
    metadata = METADATA if metadata is None else metadata
    tensors = [tensor()] if tensors is None else tensors
    counts = counts or (len(tensors), len(metadata))
    header = b"GGUF" + struct.pack("<IQQ", version, *counts)
    header += b"".join(text(key) + value for key, value in metadata.items()) + b"".join(tensors)
    return header + bytes(-len(header) % 32) + data


FLOAT32_VALUE, FLOAT32_TENSOR = 6, 0


def lora_gguf(inputs: int, outputs: int, value: float) -> bytes:
    """A LoRA adapter of rank 1 that adds one value to every output of the first block's last matrix."""
    metadata = {
        "general.architecture": struct.pack("<I", TEXT) + text("llama"),
        "general.type": struct.pack("<I", TEXT) + text("adapter"),
        "adapter.type": struct.pack("<I", TEXT) + text("lora"),
        "adapter.lora.alpha": struct.pack("<If", FLOAT32_VALUE, 1.0),
    }
    name, split = "blk.0.ffn_down.weight", -(-inputs * 4 // 32) * 32
    tensors = [
        tensor(f"{name}.lora_a", (inputs, 1), FLOAT32_TENSOR, 0),
        tensor(f"{name}.lora_b", (1, outputs), FLOAT32_TENSOR, split),
    ]
    numbers = struct.pack(f"<{inputs}f", *[value] * inputs).ljust(split, b"\0")
    return gguf(metadata, tensors, data=numbers + struct.pack(f"<{outputs}f", *[value] * outputs))
