"""Chooses the layers that LoRA adapts, and checks that the recipe suits them."""

import torch
from failures import TrainingRefused
from peft import LoraConfig, TaskType
from spec import TrainerRecipe
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

ALL = "all-linear"


def adapter_config(model: PreTrainedModel, recipe: TrainerRecipe) -> LoraConfig:
    """Raises TrainingRefused."""
    layers = linear_layers(model)
    for name in recipe.target_modules:
        if not any(_matches(layer, name) for layer in layers):
            known = sorted({layer.rpartition(".")[2] for layer in layers})
            raise TrainingRefused(
                f"There is no layer {name} to adapt. The model has: {', '.join(known)}.", "target_modules"
            )
    widths = [
        width
        for layer, width in layers.items()
        if not recipe.target_modules or any(_matches(layer, name) for name in recipe.target_modules)
    ]
    if recipe.rank > min(widths):
        raise TrainingRefused(f"The rank is higher than the smallest adapted layer is wide ({min(widths)}).", "rank")
    return LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        lora_dropout=recipe.dropout,
        bias=recipe.bias,
        target_modules=list(recipe.target_modules) or ALL,
        task_type=TaskType.CAUSAL_LM,
    )


def linear_layers(model: PreTrainedModel) -> dict[str, int]:
    """Name → smaller width, for all but the output layer, which TRL does not adapt."""
    head = model.get_output_embeddings()
    return {
        name: min(module.weight.shape)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D) and module is not head
    }


def _matches(layer: str, name: str) -> bool:
    """As PEFT matches names."""
    return layer == name or layer.endswith(f".{name}")
