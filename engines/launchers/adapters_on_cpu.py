"""Corrects vLLM's LoRA on CPUs, and makes it cheap for requests without an adapter.

vLLM 0.32 marks a token without an adapter by the index -1, and its PyTorch operators read that as the last slot: once
all slots are filled, the last adapter changes the base model's answers in every batch with both. They also copy an
adapter's matrices for every single token. Here each adapter of a batch is applied only to its own rows, by two matrix
products.
"""

import torch
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

Rows = list[tuple[int, torch.Tensor | slice]]  # a slot, and the rows of a batch that use it

update_metadata = PunicaWrapperCPU.update_metadata


def rows_by_slot(indices: torch.Tensor) -> Rows:
    """-1 means no slot."""
    row_slots = indices.tolist()
    slots = set(row_slots) - {-1}
    if len(slots) == 1 and -1 not in row_slots:
        return [(slots.pop(), slice(0, len(row_slots)))]
    return [(slot, (indices == slot).nonzero().squeeze(1)) for slot in sorted(slots)]


def note_rows(self, *arguments, **options) -> None:
    """Once per batch, for all layers."""
    update_metadata(self, *arguments, **options)
    self.token_rows = rows_by_slot(self.token_lora_indices)
    self.sampler_rows = rows_by_slot(self.sampler_indices)


def flat(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.view(-1, tensor.shape[-1])


def add_product(y: torch.Tensor, rows: torch.Tensor | slice, start: int, x: torch.Tensor, matrix: torch.Tensor) -> None:
    """`matrix` may be shorter than its slice of `y`, or padded beyond it."""
    end = min(start + matrix.shape[0], y.shape[1])
    y[rows, start:end] += (x @ matrix[: end - start].T.float()).to(y.dtype)


def add_lora_linear(self, y, x, lora_a_stacked, lora_b_stacked, scale, output_slices, **_options) -> None:
    for slot, rows in self.token_rows:
        inputs, start = flat(x)[rows].float(), 0
        for a, b, width in zip(lora_a_stacked, lora_b_stacked, output_slices, strict=True):
            add_product(flat(y), rows, start, inputs @ a[slot, 0].T.float() * scale, b[slot, 0])
            start += width


def add_lora_embedding(self, y, x, lora_b_stacked, **_options) -> None:
    for slot, rows in self.token_rows:
        add_product(flat(y), rows, 0, flat(x)[rows].float(), lora_b_stacked[slot, 0])


def add_lora_logits(self, y, x, lora_a_stacked, lora_b_stacked, scale, **_options) -> None:
    for slot, rows in self.sampler_rows:
        low_rank = flat(x)[rows].float() @ lora_a_stacked[slot, 0].T.float() * scale
        add_product(flat(y), rows, 0, low_rank, lora_b_stacked[slot, 0])


def apply() -> None:
    PunicaWrapperCPU.token_rows = PunicaWrapperCPU.sampler_rows = []
    PunicaWrapperCPU.update_metadata = note_rows
    PunicaWrapperCPU.add_lora_linear = add_lora_linear
    PunicaWrapperCPU.add_lora_embedding = add_lora_embedding
    PunicaWrapperCPU.add_lora_logits = add_lora_logits
