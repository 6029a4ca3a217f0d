"""Surveys the rows of a file: how many there are of which shape, which are wrong, and what of them is not used."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

import orjson
from django.utils.translation import gettext as _

from training.datasets import row_files
from training.datasets.row_checks import InvalidRow, check_row, used_fields
from training.datasets.row_files import MAX_LINE_BYTES, RawRow
from training.models import Format
from training.trainer import conversation
from training.trainer.conversation import ANSWERS, Lesson

MAX_ERRORS = 20
MAX_IGNORED_FIELDS, MAX_FIELD_NAME = 50, 100
FORMATS = {"messages": Format.MESSAGES, "conversations": Format.MESSAGES} | dict.fromkeys(
    ("instruction", "input"), Format.INSTRUCTION
)
# The most that any tokenizer packs into a token, except for runs of spaces: a text with more per token is too long.
MAX_CHARACTERS_PER_TOKEN = 16


@dataclass(frozen=True)
class Row:
    """`line` counts from 1, as editors do; `shape` is the field that holds its chat or question, `answer` its answer's.

    `ignored` are fields without a meaning here.
    """

    line: int
    shape: str
    answer: str
    lesson: Lesson
    ignored: frozenset[str]

    @property
    def format(self) -> Format:
        return FORMATS.get(self.shape, Format.PROMPT)

    @property
    def characters(self) -> int:
        return sum(len(message["content"]) for message in self.lesson.messages)


@dataclass
class Survey:
    """Summary of a whole file. `errors` maps line to problem, for the first of the `wrong` rows.

    `untaught` rows have the weight 0. `ignored` counts the rows that have a field without a meaning here.
    """

    format: Format | None = None
    shape: str = ""
    answer: str = ""
    rows: int = 0
    untaught: int = 0
    characters: int = 0
    wrong: int = 0
    errors: dict[int, str] = field(default_factory=dict)
    ignored: Counter[str] = field(default_factory=Counter)

    def add(self, row: Row) -> None:
        if not self.rows:
            self.format, self.shape, self.answer = row.format, row.shape, row.answer
        self.rows += 1
        self.untaught += not row.lesson.taught
        self.characters += row.characters
        for name in row.ignored:
            if name in self.ignored or len(self.ignored) < MAX_IGNORED_FIELDS:
                self.ignored[name] += 1

    def refuse(self, line: int, problem: str) -> None:
        self.wrong += 1
        if len(self.errors) < MAX_ERRORS:
            self.errors[line] = problem


def survey(raw_rows: Iterable[RawRow], context: int | None = None) -> Survey:
    """Checks every row; `context` is the base model's context length in tokens."""
    found = Survey()
    for raw in raw_rows:
        try:
            row = read(raw)
            _check_same_shape(row, found.shape)
            _check_length(row, context)
        except InvalidRow as problem:
            found.refuse(raw.number, str(problem))
        else:
            found.add(row)
    return found


def first_rows(file: BinaryIO, count: int) -> Iterator[Row]:
    """The first rows of a file that is already checked."""
    for raw, _number in zip(row_files.read_lines(file), range(count), strict=False):
        yield read(raw)


def read(raw: RawRow) -> Row:
    """Raises InvalidRow."""
    if raw.problem:
        raise InvalidRow(raw.problem)
    if len(raw.content) > MAX_LINE_BYTES:
        raise InvalidRow(_("The line is longer than %(most)d bytes.") % {"most": MAX_LINE_BYTES})
    content = _parse_object(raw.content)
    shape = check_row(content)
    lesson = conversation.BY_FORM[FORMATS.get(shape, Format.PROMPT).value](content)
    ignored = {name for name, value in content.items() if value is not None} - used_fields(content, shape)
    answer = next((name for name in ANSWERS if content.get(name) is not None), "")
    return Row(raw.number, shape, answer, lesson, frozenset(name[:MAX_FIELD_NAME] for name in ignored))


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


def _check_same_shape(row: Row, wanted: str) -> None:
    if wanted and row.shape != wanted:
        raise InvalidRow(
            _("The rows before it have the form %(wanted)s, this one %(found)s.")
            % {"wanted": wanted, "found": row.shape}
        )


def _check_length(row: Row, context: int | None) -> None:
    if context and row.characters > context * MAX_CHARACTERS_PER_TOKEN:
        raise InvalidRow(
            _("%(characters)d characters are too long for a model of %(context)d tokens.")
            % {"characters": row.characters, "context": context}
        )
