"""Turns a row of each format into a conversation. The rows are already checked (training/datasets/rows.py)."""

from collections.abc import Callable

Message = dict[str, str]
Conversation = list[Message]


def of_messages(row: dict) -> Conversation:
    return [{"role": message["role"], "content": message["content"]} for message in row["messages"]]


def of_prompt(row: dict) -> Conversation:
    return _turn(row["prompt"], row["completion"])


def of_instruction(row: dict) -> Conversation:
    instruction, details = row["instruction"], row.get("input")
    return _turn(f"{instruction}\n\n{details}" if details and details.strip() else instruction, row["output"])


def _turn(question: str, answer: str) -> Conversation:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


BY_FORM: dict[str, Callable[[dict], Conversation]] = {
    "messages": of_messages, "prompt": of_prompt, "instruction": of_instruction,
}  # fmt: skip
