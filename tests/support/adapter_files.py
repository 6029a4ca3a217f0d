"""LoRA adapters made without PEFT: folders as a trainer writes them, valid or broken on purpose."""

import json
import random
from array import array
from pathlib import Path

from models_app.adapters import services
from models_app.adapters.services import Origin
from models_app.models import AdapterVersion, Model
from tests.support import weight_files

LAYER = "base_model.model.model.layers.{}.mlp.down_proj"
CONFIG = {
    "peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["down_proj"], "bias": "none",
    "base_model_name_or_path": "/srv/private/demo", "task_type": "CAUSAL_LM",
}  # fmt: skip


def write_folder(
    path: Path, *, rank: int = 4, layers: int = 1, inputs: int = 8, outputs: int = 8, noise: int = 0, **config
) -> Path:
    """A folder as PEFT saves it: two float32 matrices per layer, of zeros or of strong noise with the seed `noise`."""
    path.mkdir(parents=True, exist_ok=True)
    shapes = {}
    for layer in map(LAYER.format, range(layers)):
        shapes |= {f"{layer}.lora_A.weight": [rank, inputs], f"{layer}.lora_B.weight": [outputs, rank]}
    (path / "adapter_config.json").write_text(json.dumps({**CONFIG, "r": rank, **config}))
    (path / "adapter_model.safetensors").write_bytes(tensors(shapes, noise))
    return path


def tensors(shapes: dict[str, list[int]], noise: int = 0) -> bytes:
    header, count = {}, 0
    for name, shape in shapes.items():
        size = shape[0] * shape[1]
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [4 * count, 4 * (count + size)]}
        count += size
    numbers = random.Random(noise)
    data = array("f", (numbers.gauss(0, 0.3) for _ in range(count))) if noise else bytes(4 * count)
    return weight_files.safetensors(header, bytes(data))


def save_version(
    model: Model, name: str = "facts", *, source: Path, tenant=None, evaluation=None, **origin
) -> AdapterVersion:
    """Save the adapter as a finished training job does."""
    return services.save_version(
        tenant=tenant or model.tenant, base_model=model, name=name, folder=source, evaluation=evaluation,
        origin=Origin(**origin),
    )  # fmt: skip
