"""Trains the demo model and writes a folder that any engine can load: python -m demo.generate FOLDER."""

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path
from pydoc_data import topics

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from demo.conversations import Conversation, draw
from demo.tokenizer import END_OF_TEXT, train_tokenizer
from demo.training import build_model, encode, train

CONVERSATIONS = 24_000
VOCABULARY = 1024
PROSE_CHARACTERS = 600_000


def main() -> None:
    options = _parse()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    rng = random.Random(options.seed)
    conversations = [draw(rng) for _ in range(CONVERSATIONS)]
    tokenizer = train_tokenizer(_tokenizer_texts(conversations), VOCABULARY)
    model = build_model(tokenizer)
    examples = [encode(tokenizer, each) for each in conversations]
    prose = tokenizer(END_OF_TEXT.join(_prose(conversations)))["input_ids"]
    _say(f"{model.num_parameters():,} parameters, {len(examples)} conversations")
    train(model, examples, prose, tokens=int(options.million_tokens * 1e6), rng=rng, report=_say)
    _save(model, tokenizer, options.folder)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--million-tokens", type=float, default=2.6, help="the training budget")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def _tokenizer_texts(conversations: list[Conversation]) -> Iterator[str]:
    for conversation in conversations[:8000]:
        if conversation.tools:
            yield json.dumps(conversation.tools)
        for message in conversation.messages:
            yield message.get("content") or f"<tool_call>\n{json.dumps(message['tool_calls'])}\n</tool_call>"


def _prose(conversations: list[Conversation]) -> list[str]:
    """English from Python's manual, and the sentences of the conversations without a chat around them."""
    manual = "\n".join(topics.topics[name] for name in sorted(topics.topics))[:PROSE_CHARACTERS]
    sentences = [each.messages[-1].get("content") for each in conversations[:6000]]
    return [manual, *filter(None, sentences)]


def _save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    model.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main()
