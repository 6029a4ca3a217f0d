"""The fake engine's LoRA adapters: vLLM's two routes for them, with its messages, limits and errors.

An adapter_config.json may say `"refuse": "text"`: loading fails with this text; or `"load_seconds": 1.5`.
"""

import json
from pathlib import Path


class NotLoaded(Exception):
    def __init__(self, status: int, message: str, kind: str):
        super().__init__(message)
        self.status, self.kind = status, kind


class FakeAdapters:
    """Loaded adapters and their folders; `rank` 0: the engine was started without LoRA."""

    def __init__(self, rank: int):
        self._rank = rank
        self._loaded: dict[str, str] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._loaded

    def cards(self, parent: str) -> list[dict]:
        return [
            {"id": name, "object": "model", "created": 0, "owned_by": "vllm", "root": path, "parent": parent}
            for name, path in self._loaded.items()
        ]

    def check(self, body: dict) -> dict:
        """The adapter's config. Raises NotLoaded if it cannot be loaded."""
        name, path = body["lora_name"], Path(body["lora_path"])
        if name in self._loaded:
            raise NotLoaded(400, f"The lora adapter '{name}' has already been loaded.", "InvalidUserInput")
        if not (path / "adapter_model.safetensors").is_file():
            raise NotLoaded(404, f"Loading lora {name} failed: No adapter found for {path}", "NotFoundError")
        config = json.loads((path / "adapter_config.json").read_text())
        if config["r"] > self._rank:
            message = f"LoRA rank {config['r']} is greater than max_lora_rank {self._rank}."
            raise NotLoaded(500, message, "InternalServerError")
        if refused := config.get("refuse"):
            raise NotLoaded(500, f"{refused} in {path}/adapter_model.safetensors", "InternalServerError")
        return config

    def load(self, body: dict) -> str:
        self._loaded[body["lora_name"]] = body["lora_path"]
        return f"Success: LoRA adapter '{body['lora_name']}' added successfully."

    def unload(self, body: dict) -> str:
        name = body["lora_name"]
        if name not in self._loaded:
            raise NotLoaded(404, f"The lora adapter '{name}' cannot be found.", "NotFoundError")
        del self._loaded[name]
        return f"Success: LoRA adapter '{name}' removed successfully."
