"""Dataset rows: the accepted formats, and the checks of a row.

JSONL in UTF-8, one object per line, all in one format:

    {"messages": [{"role": "system" | "user" | "assistant", "content": "…"}, …]}   ending with the assistant
    {"prompt": "…", "completion": "…"}
    {"instruction": "…", "input": "…", "output": "…"}                              `input` may be left out or empty

Unknown fields of a row are ignored; unknown fields of a message are refused, because they would change its meaning.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

import orjson
from django.utils.translation import gettext as _

from training.models import Format
from training.trainer import conversation
from training.trainer.conversation import Conversation

MAX_LINE_BYTES = 1024 * 1024
MAX_ERRORS = 20
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
ROLES = ("system", "user", "assistant")
# The most that any tokenizer packs into a token, except for runs of spaces: a text with more per token is too long.
MAX_CHARACTERS_PER_TOKEN = 16


class InvalidRow(ValueError):
    """What is wrong with a row, in the caller's language."""


@dataclass(frozen=True)
class Row:
    """`line` counts from 1, as editors do."""

    line: int
    format: Format
    conversation: Conversation

    @property
    def characters(self) -> int:
        return sum(len(message["content"]) for message in self.conversation)


@dataclass
class Survey:
    """Summary of a whole file. `errors` maps line to problem, for the first of the `wrong` rows."""

    format: Format | None = None
    rows: int = 0
    characters: int = 0
    wrong: int = 0
    errors: dict[int, str] = field(default_factory=dict)

    def add(self, row: Row) -> None:
        self.format = self.format or row.format
        self.rows += 1
        self.characters += row.characters

    def refuse(self, line: int, problem: str) -> None:
        self.wrong += 1
        if len(self.errors) < MAX_ERRORS:
            self.errors[line] = problem


def survey(file: BinaryIO, context: int | None = None) -> Survey:
    """Checks every row; `context` is the base model's context length in tokens."""
    found = Survey()
    for line, raw in _lines(file):
        try:
            row = read(line, raw)
            _check_same_format(row, found.format)
            _check_length(row, context)
        except InvalidRow as problem:
            found.refuse(line, str(problem))
        else:
            found.add(row)
    return found


def first_rows(file: BinaryIO, count: int) -> Iterator[Row]:
    """The first rows of a file that is already checked."""
    for (line, raw), _number in zip(_lines(file), range(count), strict=False):
        yield read(line, raw)


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Lines that are not blank, with their numbers. Only the beginning of an overlong line is kept in memory."""
    number = 0
    while raw := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        rest = raw
        while len(rest) > MAX_LINE_BYTES and not rest.endswith(b"\n"):
            rest = file.readline(MAX_LINE_BYTES + 1)
        if number == 1:
            raw = raw.removeprefix(BYTE_ORDER_MARK)
        if raw.strip():
            yield number, raw


def read(line: int, raw: bytes) -> Row:
    """Raises InvalidRow."""
    if len(raw) > MAX_LINE_BYTES:
        raise InvalidRow(_("The line is longer than %(most)d bytes.") % {"most": MAX_LINE_BYTES})
    content = _parse_object(raw)
    form = _detect_format(content)
    CHECKS[form](content)
    return Row(line, form, conversation.BY_FORM[form.value](content))


def _parse_object(raw: bytes) -> dict:
    try:
        content = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise InvalidRow(_json_problem(raw, error)) from None
    if not isinstance(content, dict):
        raise InvalidRow(_("A row is one JSON object on one line, not a list or a single value."))
    return content


def _json_problem(raw: bytes, error: orjson.JSONDecodeError) -> str:
    try:
        raw.decode()
    except UnicodeDecodeError as undecodable:
        return _("The line is not UTF-8 (byte %(position)d).") % {"position": undecodable.start + 1}
    if raw.strip() in (b"[", b"{"):
        return _("A row is one JSON object on one line; this file is spread over several lines.")
    return _("The line is not JSON (character %(position)d).") % {"position": error.pos + 1}


def _detect_format(content: dict) -> Format:
    found = [form for form in Format if form.value in content]
    if not found:
        raise InvalidRow(_("A row has messages, or prompt and completion, or instruction and output."))
    if len(found) > 1:
        raise InvalidRow(_("A row has one form, not several: %(forms)s.") % {"forms": ", ".join(found)})
    return found[0]


def _check_same_format(row: Row, wanted: Format | None) -> None:
    if wanted and row.format != wanted:
        raise InvalidRow(
            _("The rows before it have the form %(wanted)s, this one %(found)s.")
            % {"wanted": wanted.value, "found": row.format.value}
        )


def _check_length(row: Row, context: int | None) -> None:
    if context and row.characters > context * MAX_CHARACTERS_PER_TOKEN:
        raise InvalidRow(
            _("%(characters)d characters are too long for a model of %(context)d tokens.")
            % {"characters": row.characters, "context": context}
        )


# --- the checks of each format; the trainer's own module then turns a row into a conversation


def _check_messages(content: dict) -> None:
    messages = content["messages"]
    if not isinstance(messages, list) or not messages:
        raise InvalidRow(_("messages must be a list of at least one question and its answer."))
    for number, message in enumerate(messages, 1):
        _check_message(number, message)
    if messages[-1]["role"] != "assistant":
        raise InvalidRow(_("The last message must be the assistant's: it is what the model is taught."))
    if not any(message["role"] == "user" for message in messages):
        raise InvalidRow(_("There is no message of the user."))


def _check_message(number: int, message) -> None:
    if not isinstance(message, dict):
        raise InvalidRow(_("Message %(number)d is not an object.") % {"number": number})
    if message.get("role") not in ROLES:
        raise InvalidRow(
            _("Message %(number)d: role must be one of %(roles)s.") % {"number": number, "roles": ", ".join(ROLES)}
        )
    if unknown := sorted(set(message) - {"role", "content"}):
        raise InvalidRow(
            _("Message %(number)d: only role and content can be taught, not %(name)s.")
            % {"number": number, "name": unknown[0][:60]}
        )
    _check_text(message, "content", number)


def _check_prompt(content: dict) -> None:
    _check_text(content, "prompt")
    _check_text(content, "completion")


def _check_instruction(content: dict) -> None:
    _check_text(content, "instruction")
    if not isinstance(content.get("input"), str | None):
        raise InvalidRow(_("%(name)s must be a text.") % {"name": "input"})
    _check_text(content, "output")


def _check_text(content: dict, name: str, message: int | None = None) -> None:
    text = content.get(name)
    if not isinstance(text, str):
        raise InvalidRow(_message_prefix(message) + _("%(name)s must be a text.") % {"name": name})
    if not text.strip():
        raise InvalidRow(_message_prefix(message) + _("%(name)s is empty.") % {"name": name})


def _message_prefix(message: int | None) -> str:
    return _("Message %d: ") % message if message else ""


CHECKS = {Format.MESSAGES: _check_messages, Format.PROMPT: _check_prompt, Format.INSTRUCTION: _check_instruction}
