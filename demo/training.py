"""The demo model's shape and its training loop."""

import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from demo.conversations import Conversation
from demo.tokenizer import CONTEXT_LENGTH

BATCH = 6
PROSE_INTERVAL = 20
PROSE_WINDOW = 128
PEAK_LEARNING_RATE = 1e-3
WARM_UP_STEPS = 100
# The loss counts the user's text a little too: repeated words in it teach the model to copy, as tool calls need.
PROMPT_WEIGHT = 0.3


@dataclass(frozen=True)
class TokenizedConversation:
    """One conversation as token ids, and the weight of each token in the loss."""

    ids: list[int]
    weights: list[float]


@dataclass(frozen=True)
class Batch:
    """Rows of token ids and of their weights, both (rows, length); padding has weight 0."""

    ids: Tensor
    weights: Tensor


def build_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A 2.2 M parameter Llama. Two key-value heads, so that it can be split over two devices."""
    end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=256, intermediate_size=384, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, head_dim=64, max_position_embeddings=CONTEXT_LENGTH,
        bos_token_id=pad, eos_token_id=end, pad_token_id=pad, tie_word_embeddings=True,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(
        bos_token_id=pad, eos_token_id=[end, pad], pad_token_id=pad, do_sample=True, temperature=0.3
    )
    return model


def encode(tokenizer: PreTrainedTokenizerFast, conversation: Conversation) -> TokenizedConversation:
    encoded = tokenizer.apply_chat_template(
        conversation.messages,
        tools=conversation.tools or None,
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    return TokenizedConversation(
        encoded["input_ids"], [1.0 if mask else PROMPT_WEIGHT for mask in encoded["assistant_masks"]]
    )


def train(
    model: LlamaForCausalLM,
    examples: list[TokenizedConversation],
    prose: list[int],
    *,
    tokens: int,
    rng: random.Random,
    report: Callable[[str], None],
) -> None:
    """Train until `tokens` were read; a budget in tokens means the same on fast and slow machines."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.05)
    model.train()
    started, seen, smooth = time.monotonic(), 0, None
    for step, batch in enumerate(_batches(examples, prose, rng), start=1):
        if seen >= tokens:
            break
        _set_learning_rate(optimizer, step, seen / tokens)
        loss = _step(model, optimizer, batch)
        seen += batch.ids.numel()
        smooth = loss if smooth is None else 0.95 * smooth + 0.05 * loss
        if step % 100 == 0:
            report(f"step {step}, {seen / tokens:.0%}, loss {smooth:.3f}, {time.monotonic() - started:.0f} s")
    model.eval()


def _step(model: LlamaForCausalLM, optimizer: torch.optim.Optimizer, batch: Batch) -> float:
    loss = _loss(model, batch)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item()


def _loss(model: LlamaForCausalLM, batch: Batch) -> Tensor:
    """Batches are padded on the right, where a causal model does not look: no attention mask is needed."""
    hidden, wanted, weights = model.model(batch.ids)[0][:, :-1], batch.ids[:, 1:], batch.weights[:, 1:]
    counted = weights > 0
    losses = cross_entropy(model.lm_head(hidden[counted]), wanted[counted], reduction="none")
    return (losses * weights[counted]).sum() / weights[counted].sum()


def _set_learning_rate(optimizer: torch.optim.Optimizer, step: int, progress: float) -> None:
    """Linear warm-up, then a cosine down to a twentieth."""
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    for group in optimizer.param_groups:
        group["lr"] = PEAK_LEARNING_RATE * min(1.0, step / WARM_UP_STEPS) * (0.05 + 0.95 * cosine)


def _batches(examples: list[TokenizedConversation], prose: list[int], rng: random.Random) -> Iterator[Batch]:
    """Batches of conversations of similar length; some of plain prose, so that no token stays untrained."""
    order = sorted(range(len(examples)), key=lambda place: len(examples[place].ids) + rng.random() * 8)
    groups = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
    count = 0
    while True:
        rng.shuffle(groups)
        for group in groups:
            count += 1
            if count % PROSE_INTERVAL == 0:
                yield _prose_batch(prose, rng)
            yield _chat_batch([examples[place] for place in group])


def _chat_batch(examples: list[TokenizedConversation]) -> Batch:
    width = max(len(example.ids) for example in examples)
    ids = torch.zeros(len(examples), width, dtype=torch.long)
    weights = torch.zeros(len(examples), width)
    for row, example in enumerate(examples):
        ids[row, : len(example.ids)] = torch.tensor(example.ids)
        weights[row, : len(example.ids)] = torch.tensor(example.weights)
    return Batch(ids, weights)


def _prose_batch(prose: list[int], rng: random.Random) -> Batch:
    starts = [rng.randrange(len(prose) - PROSE_WINDOW) for _ in range(BATCH)]
    ids = torch.tensor([prose[start : start + PROSE_WINDOW] for start in starts])
    return Batch(ids, torch.ones(ids.shape))
