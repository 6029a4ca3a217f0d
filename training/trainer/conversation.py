"""Turns a row of any form into a lesson: a conversation, and which messages of it are learnt. Standard library only.

The rows are already checked (training/datasets/row_checks.py). Docs: docs/training.md, "Datasets".
"""

from collections.abc import Callable
from dataclasses import dataclass

Message = dict[str, str]
Conversation = list[Message]

CHATS = ("messages", "conversations")
QUESTIONS = ("prompt", "question", "query", "instruction")
DETAILS = ("input", "context")  # belong to the question; `input` alone is the question
ANSWERS = ("completion", "response", "answer", "output")
SYSTEMS = ("system", "system_prompt")
WEIGHTS = ("weight", "loss_weight")  # 0: not learnt
HISTORY = "history"
# role of a message, by the names of OpenAI and ShareGPT → role for the chat template
ROLES = {
    "system": "system", "developer": "system", "user": "user", "human": "user", "assistant": "assistant",
    "gpt": "assistant",
}  # fmt: skip


@dataclass(frozen=True)
class Lesson:
    """`taught` are the numbers, from 0, of the messages that are learnt; all are the assistant's."""

    messages: Conversation
    taught: frozenset[int]

    @property
    def is_taught_whole(self) -> bool:
        """Whether every message of the assistant is learnt."""
        answers = {number for number, message in enumerate(self.messages) if message["role"] == "assistant"}
        return self.taught == answers

    @property
    def last_taught(self) -> Conversation:
        """The conversation up to the last message that is learnt; there must be one."""
        return self.messages[: max(self.taught) + 1]


def of_chat(row: dict) -> Lesson:
    return _lesson(row, next(row[name] for name in CHATS if row.get(name)))


def of_question(row: dict) -> Lesson:
    """The earlier turns of `history` come first; details follow the question after an empty line."""
    asks = question_field(row)
    details = [row[name] for name in DETAILS if name != asks and (row.get(name) or "").strip()]
    turns = [message for turn in row.get(HISTORY) or () for message in turn_messages(turn)]
    answer = next(row[name] for name in ANSWERS if row.get(name) is not None)
    return _lesson(row, [*turns, *turn_messages(["\n\n".join([row[asks], *details]), answer])])


def question_field(row: dict) -> str:
    """The name of the field that asks; empty if there is none."""
    return next((name for name in (*QUESTIONS, DETAILS[0]) if row.get(name) is not None), "")


def turn_messages(turn: list | dict) -> list[dict]:
    """An item of a history: a pair of question and answer, or one message."""
    if isinstance(turn, dict):
        return [turn]
    return [{"role": role, "content": text} for role, text in zip(("user", "assistant"), turn, strict=True)]


def message_role(message: dict) -> object:
    """As the row names it."""
    return message.get("role") or message.get("from")


def message_text(message: dict) -> object:
    """The parts of a text are joined by line ends, as vLLM joins them. Not a text if the message has none."""
    content = message.get("value") if message.get("content") is None else message["content"]
    if isinstance(content, list):
        return "\n".join(part["text"] for part in content)
    return content


def has_weight(part: dict) -> bool:
    """Whether a message or a row is to be learnt by its own weight."""
    return all(part.get(name) in (None, 1) for name in WEIGHTS)


def _lesson(row: dict, turns: list[dict]) -> Lesson:
    """An answer to nothing, before the user has spoken, is not learnt."""
    system = [{"role": "system", "content": row[name]} for name in SYSTEMS if row.get(name)]
    found = [*system, *turns]
    messages = [{"role": ROLES[str(message_role(part))], "content": str(message_text(part))} for part in found]
    first = next((number for number, message in enumerate(messages) if message["role"] == "user"), len(messages))
    taught = {
        number
        for number, message in enumerate(messages)
        if number > first and message["role"] == "assistant" and has_weight(found[number])
    }
    return Lesson(messages, frozenset(taught if has_weight(row) else ()))


BY_FORM: dict[str, Callable[[dict], Lesson]] = {
    "messages": of_chat, "prompt": of_question, "instruction": of_question,
}  # fmt: skip
