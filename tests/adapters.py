"""Adapters made by hand, without PEFT: a folder as a trainer leaves it, whole or broken on purpose."""

import json
import struct
from pathlib import Path

from models_app.adapters import services
from models_app.adapters.services import Origin
from models_app.models import AdapterVersion, Model
from tests import weights

LAYER = "base_model.model.model.layers.{}.mlp.down_proj"
CONFIG = {
    "peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["down_proj"], "bias": "none",
    "base_model_name_or_path": "/srv/private/demo", "task_type": "CAUSAL_LM",
}  # fmt: skip


def folder(
    path: Path, *, rank: int = 4, layers: int = 1, inputs: int = 8, outputs: int = 8, value: float = 0.0, **config
) -> Path:
    """What PEFT saves: per layer two float32 matrices, all numbers of which are `value`."""
    path.mkdir(parents=True, exist_ok=True)
    shapes = {}
    for layer in map(LAYER.format, range(layers)):
        shapes |= {f"{layer}.lora_A.weight": [rank, inputs], f"{layer}.lora_B.weight": [outputs, rank]}
    (path / "adapter_config.json").write_text(json.dumps({**CONFIG, "r": rank, **config}))
    (path / "adapter_model.safetensors").write_bytes(tensors(shapes, value))
    return path


def tensors(shapes: dict[str, list[int]], value: float = 0.0) -> bytes:
    header, place = {}, 0
    for name, shape in shapes.items():
        size = 4 * shape[0] * shape[1]
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [place, place + size]}
        place += size
    return weights.safetensors(header, struct.pack("<f", value) * (place // 4))


def keep(model: Model, name: str = "facts", *, source: Path, tenant=None, evaluation=None, **origin) -> AdapterVersion:
    """As a training does when it is done."""
    return services.keep(
        tenant=tenant or model.tenant, base_model=model, name=name, folder=source, evaluation=evaluation,
        origin=Origin(**origin),
    )  # fmt: skip
