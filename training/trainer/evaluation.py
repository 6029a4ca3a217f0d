"""Evaluation on held-out rows: loss, perplexity, and sample answers before and after training."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from data import Data, Encoder, TokenizedRow
from transformers import PreTrainedModel

MAX_NEW_TOKENS = 128
SAMPLES_TIMEOUT = 120.0  # for all sample answers together
Collate = Callable[[list[dict]], dict[str, torch.Tensor]]


@dataclass(frozen=True)
class Measure:
    """`loss` is the mean over all tokens of the assistant, in nats."""

    loss: float

    @property
    def perplexity(self) -> float:
        return math.exp(min(self.loss, 700))  # a larger loss overflows a float

    def as_fields(self) -> dict[str, float]:
        return {"loss": self.loss, "perplexity": self.perplexity}


def measure(model: PreTrainedModel, examples: list[TokenizedRow], batch_size: int, collate: Collate) -> Measure | None:
    """None without examples. Draws no random numbers, so that it does not change the training."""
    if not examples:
        return None
    was_training = model.training
    model.eval()
    total, tokens = 0.0, 0
    with torch.no_grad(), _autocast(model):
        for batch in _batches(examples, batch_size):
            inputs = {name: tensor.to(model.device) for name, tensor in collate(batch).items()}
            output = model(**inputs, fused_lm_head=True)  # TRL's: no logits are kept
            total -= output.log_probs.double().sum().item()
            tokens += int(output.label_mask.sum())
    model.train(was_training)
    return Measure(total / max(tokens, 1))


def _batches(examples: list[TokenizedRow], size: int) -> Iterator[list[dict]]:
    """Rows of similar length together."""
    ordered = sorted(examples, key=lambda example: len(example.ids))
    for start in range(0, len(ordered), size):
        yield [{"input_ids": list(row.ids), "labels": list(row.labels)} for row in ordered[start : start + size]]


def _autocast(model: PreTrainedModel):
    return torch.autocast(model.device.type, torch.bfloat16, enabled=model.device.type != "cpu")


def samples(model: PreTrainedModel, encoder: Encoder, data: Data) -> list[dict]:
    """Answers of the base and of the trained model, in the order of the data, as many as the time allows."""
    model.eval()
    found, deadline = [], time.monotonic() + SAMPLES_TIMEOUT
    for messages in data.shown:
        ids = encoder.prompt(messages[:-1])
        if time.monotonic() < deadline:
            with model.disable_adapter():
                before = _answer(model, encoder, ids, deadline)
            after = _answer(model, encoder, ids, deadline)
            found.append(
                {"prompt": messages[:-1], "expected": messages[-1]["content"], "before": before, "after": after}
            )
    return found


def _answer(model: PreTrainedModel, encoder: Encoder, ids: list[int], deadline: float) -> str:
    """By greedy decoding."""
    ids = ids[-encoder.longest :]
    with torch.no_grad(), _autocast(model):
        output = model.generate(
            input_ids=torch.tensor([ids], device=model.device),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long, device=model.device),
            max_new_tokens=MAX_NEW_TOKENS,
            max_time=max(deadline - time.monotonic(), 0.1),
            do_sample=False,
            use_cache=True,
            pad_token_id=encoder.tokenizer.pad_token_id,
        )
    return encoder.tokenizer.decode(output[0][len(ids) :], skip_special_tokens=True).strip()
