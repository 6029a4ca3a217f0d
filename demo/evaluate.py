"""Tests the demo model with phrasings that it was not trained on: python -m demo.evaluate FOLDER."""

import argparse
import random
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from demo.conversations import Conversation, draw_from_topic, draw_tool_conversation
from demo.facts import TOPICS

PER_BATCH = 32


def questions(per_topic: int, seed: int) -> list[Conversation]:
    """Held-out questions: `per_topic` of each topic, and twice as many for tools."""
    rng = random.Random(seed)
    drawn = [draw_from_topic(rng, topic, held_out=True) for topic in TOPICS for _ in range(per_topic)]
    return drawn + [draw_tool_conversation(rng, held_out=True) for _ in range(2 * per_topic)]


class Examiner:
    """Greedy answers of the model in a folder, compared letter by letter with the expected ones."""

    def __init__(self, folder: Path):
        self.tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def render(self, messages: list[dict], tools: list[dict], *, to_answer: bool) -> str:
        return self.tokenizer.apply_chat_template(
            messages, tools=tools or None, tokenize=False, add_generation_prompt=to_answer
        )

    def answers(self, prompts: list[str]) -> list[str]:
        batch = self.tokenizer(prompts, return_tensors="pt", padding=True)
        with torch.inference_mode():
            output = self.model.generate(**batch, max_new_tokens=250, do_sample=False)
        return self.tokenizer.batch_decode(output[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)

    def misses(self, conversations: list[Conversation]) -> list[tuple[Conversation, str]]:
        """The conversations that were answered wrongly, each with what the model said."""
        wrong = []
        for start in range(0, len(conversations), PER_BATCH):
            group = conversations[start : start + PER_BATCH]
            prompts = [self.render(each.messages[:-1], each.tools, to_answer=True) for each in group]
            for each, prompt, answer in zip(group, prompts, self.answers(prompts), strict=True):
                expected = self.render(each.messages, each.tools, to_answer=False).removeprefix(prompt)
                if answer.strip() != expected.removesuffix("<|im_end|>\n").strip():
                    wrong.append((each, answer))
        return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--per-topic", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    asked = questions(options.per_topic, options.seed)
    misses = Examiner(options.folder).misses(asked)
    for conversation, answer in misses:
        print(f"missed: {conversation.messages[-2]['content']!r} -> {answer!r}")
    for topic in dict.fromkeys(each.topic for each in asked):
        total = sum(each.topic == topic for each in asked)
        print(f"| {topic} | {total - sum(each.topic == topic for each, _ in misses)} of {total} |")
    print(f"accuracy {1 - len(misses) / len(asked):.3f}")


if __name__ == "__main__":
    main()
