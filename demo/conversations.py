"""Draws the conversations from which the demo model learns, and those that test it."""

import random
import zlib
from dataclasses import dataclass, field

from demo import tools
from demo.facts import TOPICS, Topic

TOOL_SHARE = 0.22
UNUSED_TOOL_SHARE = 0.08
RESULT_SHARE = 0.45
HASTY_SHARE = 0.12  # asked without capitals and punctuation
SYSTEM_PROMPTS = (
    "You are a helpful assistant.", "You are a helpful assistant", "Be brief.", "You are Serai's demo model.",
    "Answer in one sentence.", "You are a friendly assistant. Answer politely.",
)  # fmt: skip
_WEIGHTS = [topic.weight for topic in TOPICS]


@dataclass
class Conversation:
    """Messages in OpenAI's form that end with the assistant's answer."""

    topic: str
    messages: list[dict]
    tools: list[dict] = field(default_factory=list)


def draw(rng: random.Random, *, held_out: bool = False) -> Conversation:
    """A conversation; `held_out` asks in the one phrasing that training never uses for that fact."""
    if rng.random() < TOOL_SHARE:
        return draw_tool_conversation(rng, held_out=held_out)
    topic = rng.choices(TOPICS, _WEIGHTS)[0]
    conversation = draw_from_topic(rng, topic, held_out=held_out)
    if rng.random() < UNUSED_TOOL_SHARE and topic.name != "sums":
        conversation.tools = [tools.draw_definition(rng, rng.choice(tools.TOOL_KINDS))]
    return conversation


def draw_from_topic(rng: random.Random, topic: Topic, *, held_out: bool) -> Conversation:
    return Conversation(topic.name, [*_opening(rng), *_exchange(rng, topic, held_out=held_out)])


def draw_tool_conversation(rng: random.Random, *, held_out: bool) -> Conversation:
    """A question that a tool answers: up to the call, or on to the sentence that reads the result back."""
    kind = rng.choice(tools.TOOL_KINDS)
    values = kind.draw_values(rng)
    definition = tools.draw_definition(rng, kind)
    question = _phrasing(rng, kind.phrasings, values, held_out=held_out).format(*values)
    call = tools.call_of(definition, values)
    messages = [*_system(rng), _user(question), {"role": "assistant", "tool_calls": [call]}]
    topic = "tool calls"
    if rng.random() < RESULT_SHARE:
        topic = "tool results"
        result = kind.draw_result(rng, values)
        messages += [{"role": "tool", "content": result.content}, _assistant(result.sentence)]
    return Conversation(topic, messages, _with_another_tool(rng, kind, definition))


def _with_another_tool(rng: random.Random, kind: tools.ToolKind, definition: dict) -> list[dict]:
    if rng.random() < 0.6:
        return [definition]
    other = rng.choice([each for each in tools.TOOL_KINDS if each is not kind])
    definitions = [definition, tools.draw_definition(rng, other)]
    rng.shuffle(definitions)
    return definitions


def _exchange(rng: random.Random, topic: Topic, *, held_out: bool) -> list[dict]:
    fact = rng.choice(topic.facts)
    question = _phrasing(rng, topic.phrasings, fact.words, held_out=held_out).format(*fact.words)
    if not held_out and rng.random() < HASTY_SHARE:
        question = question.lower().rstrip("?.!")
    return [_user(question), _assistant(fact.answer)]


def _phrasing(rng: random.Random, phrasings: tuple[str, ...], words: tuple, *, held_out: bool) -> str:
    """One phrasing of each fact is kept for the test: never the first, which is the most usual one."""
    first, *others = phrasings
    if not others:
        return first
    kept = others.pop(zlib.crc32(repr(words).encode()) % len(others))
    return kept if held_out else rng.choice([first, *others])


def _opening(rng: random.Random) -> list[dict]:
    """What may come before the question: a system prompt, an earlier exchange, mostly nothing."""
    roll = rng.random()
    if roll < 0.15:
        return [{"role": "system", "content": rng.choice(SYSTEM_PROMPTS)}]
    if roll < 0.27:
        topic = rng.choices(TOPICS, _WEIGHTS)[0]
        return _exchange(rng, topic, held_out=False)
    return []


def _system(rng: random.Random) -> list[dict]:
    return [{"role": "system", "content": rng.choice(SYSTEM_PROMPTS)}] if rng.random() < 0.2 else []


def _user(text: str) -> dict:
    return {"role": "user", "content": text}


def _assistant(text: str) -> dict:
    return {"role": "assistant", "content": text}
